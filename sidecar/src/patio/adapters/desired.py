"""What this pod should have, and how orders change it. Pure: every function returns a new `Desired`.

Orders come from `routes` and, once at start, from the variable that admission put in. Each order is for a name in a
slot: ACTIVE is what the engine should have, STAGED is what is downloaded ahead of the order that will have it loaded.
`store` writes a `Desired` down before it counts; `planner` compares it with the engine. Nothing here knows an engine or
a clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from patio.adapters.fetching import Origin, files_of
from patio.rejection import Rejection
from patio_protocol.adapters import LoadRequest

_K = TypeVar("_K")
_T = TypeVar("_T")


class Slot(StrEnum):
    """For what an adapter is ordered. A name has at most one order in each slot."""

    ACTIVE = "active"
    """To be loaded in the engine."""
    STAGED = "staged"
    """To be on disk; the engine gets nothing of it before another order says so."""


Key = tuple[str, Slot]
"""What one order is about: a name, in a slot."""


@dataclass(frozen=True, slots=True)
class LoadedWeights:
    """Which weights the sidecar last saw the engine take, under some name."""

    path: str
    revision: str | None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """One adapter that the pod should have."""

    name: str
    path: str
    """What the engine loads; empty until the files of an origin are there."""
    owner: str | None = None
    revision: str | None = None
    required: bool = False
    """Named at admission: the pod is not ready before it is settled."""
    order: int = 0
    """Grows with every order for this name, also with one that repeats the last: that is how a user says `again`."""
    served: bool = False
    """Was loaded on this pod before, so that requests may be on their way to it."""
    held: LoadedWeights | None = None
    origin: Origin | None = None
    """Where its files are fetched from; None: `path` was given."""
    credentials_revision: str | None = None
    """What the order said of its credentials; opaque."""

    @property
    def fetching(self) -> bool:
        """Whether its files are not there yet."""
        return self.origin is not None and not self.path

    @property
    def gating(self) -> bool:
        """Whether the pod waits for it before it is ready."""
        return self.required or self.served


@dataclass(frozen=True, slots=True)
class Desired:
    """Everything ordered, and every name that is being unloaded."""

    specs: Mapping[Key, AdapterSpec] = field(default_factory=dict)
    leaving: frozenset[str] = frozenset()
    """Names ordered away that the engine may still have."""
    unloaded: Mapping[str, str] = field(default_factory=dict)
    """Paths of names ordered away from an engine whose requests bring such back; the last ones only."""
    required_seen: Mapping[str, str] = field(default_factory=dict)
    """Digest of each entry of the admission variable that was taken in, so that a restart does not bring back what was
    unloaded since."""
    orders: int = 0

    def spec(self, name: str, slot: Slot = Slot.ACTIVE) -> AdapterSpec | None:
        """Return the order for a name in a slot."""
        return self.specs.get((name, slot))

    def in_slot(self, slot: Slot) -> dict[str, AdapterSpec]:
        """Return the orders in a slot, by name."""
        return {name: spec for (name, spec_slot), spec in self.specs.items() if spec_slot is slot}


MOST_ADAPTERS = 2000
"""Names that are wanted or prepared on a pod. Each costs work at every change and a part of every report."""
MOST_UNLOADED = 100
"""Names in `Desired.unloaded`."""


class Outcome(StrEnum):
    """What an order for unloading came to."""

    LEAVING = "leaving"
    """The engine is to unload it."""
    UNKNOWN = "unknown"
    """Neither wanted nor present."""
    KEPT = "kept"
    """There, and not the caller's to remove."""


def conflict(name: str, holder: str | None) -> Rejection:
    """Reject an order for a name that another owner ordered."""
    held = f"belongs to {holder}" if holder else "was loaded manually"
    message = f"Adapter {name} {held} on this pod. Unload it there first, or choose another name."
    return Rejection("Conflict", message, retryable=False)


def too_many(name: str) -> Rejection:
    """Reject an order for one name more than a pod takes."""
    message = f"This pod has orders for {MOST_ADAPTERS} adapters, which is the limit. Unload others before {name}."
    return Rejection("TooManyAdapters", message, retryable=False)


def with_load(desired: Desired, request: LoadRequest) -> Desired | Rejection:
    """Take in an order, or return why it is not taken: another owner has the name already, or there are too many."""
    rejection = _conflict(desired, request)
    if rejection is not None:
        return rejection
    if _exceeds_limit(desired, request.lora_name):
        return too_many(request.lora_name)
    spec = _spec_of(desired, request, desired.orders + 1)
    if request.prepare:
        return replace(desired, specs={**desired.specs, (spec.name, Slot.STAGED): spec}, orders=spec.order)
    previous = desired.spec(spec.name)
    required, served = (False, False) if previous is None else (previous.required, previous.served)
    return _with_active(desired, replace(spec, required=required, served=served))


def with_unload(desired: Desired, name: str, owner: str | None, present: bool) -> tuple[Desired, Outcome]:
    """Take orders for a name back. `present`: the engine lists the name."""
    active, staged = desired.spec(name), desired.spec(name, Slot.STAGED)
    if staged is not None and owner in (None, staged.owner):
        desired = replace(desired, specs=without(desired.specs, (name, Slot.STAGED)))
        if active is None and not (present and owner is None):
            return desired, Outcome.LEAVING
    if active is None:
        if name in desired.leaving:
            return desired, Outcome.LEAVING
        if not present:
            return desired, Outcome.UNKNOWN
        if owner is not None:
            return desired, Outcome.KEPT
    elif owner is not None and owner != active.owner:
        return desired, Outcome.KEPT
    specs = without(desired.specs, (name, Slot.ACTIVE))
    return replace(desired, specs=specs, leaving=desired.leaving | {name}), Outcome.LEAVING


def with_unload_order(
    desired: Desired, name: str, owner: str | None, listed: Mapping[str, str], *, sticks: bool
) -> tuple[Desired, Outcome]:
    """Take orders for a name back. `listed`: the engine's own list, paths by name. Unless unloads stick, remember from
    where a request may make the engine load the name again.
    """
    previous = desired.spec(name)
    changed, outcome = with_unload(desired, name, owner, name in listed)
    if outcome is Outcome.LEAVING and name in changed.leaving and not sticks:
        held = "" if previous is None or previous.held is None else previous.held.path
        path = listed.get(name, held)
        changed = with_unloaded(changed, name, path) if path else changed
    return changed, outcome


def with_unloaded(desired: Desired, name: str, path: str) -> Desired:
    """Remember from where the engine may load a name again that was ordered away."""
    last = [*without(desired.unloaded, name).items(), (name, path)][-MOST_UNLOADED:]
    return replace(desired, unloaded=dict(last))


def returned(desired: Desired, listed: Mapping[str, str]) -> frozenset[str]:
    """Return the names that were ordered away and are listed again, from the path that they had."""
    return frozenset(
        name
        for name, path in desired.unloaded.items()
        if listed.get(name) == path and desired.spec(name) is None and name not in desired.leaving
    )


def with_returned(desired: Desired, names: Iterable[str]) -> Desired:
    """Order away once more what came back."""
    return replace(desired, leaving=desired.leaving.union(names))


def with_new_engine(desired: Desired) -> Desired:
    """Forget what only an engine that is gone could bring back."""
    return replace(desired, unloaded={}) if desired.unloaded else desired


def with_required(desired: Desired, required: Iterable[LoadRequest]) -> Desired:
    """Take in what admission asks for, except what was taken in before: orders made since then count more. What is one
    too many is left out, and not in `required_seen`.
    """
    for request in required:
        digest = _digest(request)
        if desired.required_seen.get(request.lora_name) == digest:
            continue
        if _exceeds_limit(desired, request.lora_name):
            continue
        spec = replace(_spec_of(desired, request, desired.orders + 1), required=True)
        seen = {**desired.required_seen, spec.name: digest}
        desired = replace(_with_active(desired, spec), required_seen=seen)
    return desired


def with_loaded(desired: Desired, loaded: AdapterSpec) -> Desired:
    """Remember that the engine accepted these weights, whatever is desired by now."""
    current = desired.spec(loaded.name)
    if current is None:
        return desired
    changed = replace(current, served=True, held=LoadedWeights(loaded.path, loaded.revision, loaded.origin))
    if changed == current:
        return desired
    return replace(desired, specs={**desired.specs, (current.name, Slot.ACTIVE): changed})


def with_fetched(desired: Desired, fetched: AdapterSpec, folder: str) -> Desired:
    """Take in where an origin's files are, in each slot that still wants them. An empty folder: no longer there."""
    changed = {
        key: replace(spec, path=folder)
        for slot in Slot
        if (spec := desired.specs.get(key := (fetched.name, slot))) is not None
        and same_files(spec, fetched)
        and spec.path != folder
    }
    return replace(desired, specs={**desired.specs, **changed}) if changed else desired


def same_files(files: AdapterSpec | LoadedWeights, spec: AdapterSpec) -> bool:
    """Whether both are fetched from one origin in one revision, so that the files of one are those of the other."""
    return files.origin is not None and (files.origin, files.revision) == (spec.origin, spec.revision)


def folders_in_use(desired: Desired, listed: Iterable[str]) -> frozenset[str]:
    """Return every folder that an engine has or may be asked to load. `listed`: the paths in the engine's own list."""
    held = [
        spec.held.path for (_, slot), spec in desired.specs.items() if slot is Slot.ACTIVE and spec.held is not None
    ]
    return frozenset(path for path in (*(spec.path for spec in desired.specs.values()), *held, *listed) if path)


def sources_at_hand(desired: Desired) -> frozenset[str]:
    """Return the sources of orders whose files are there."""
    return frozenset(spec.origin.uri for spec in desired.specs.values() if spec.origin is not None and spec.path)


def with_removed(desired: Desired, names: Iterable[str]) -> Desired:
    """Forget names on their way out that the engine has unloaded."""
    leaving = desired.leaving.difference(names)
    return desired if leaving == desired.leaving else replace(desired, leaving=leaving)


def without(mapping: Mapping[_K, _T], key: _K) -> Mapping[_K, _T]:
    """Return a mapping without a key."""
    if key not in mapping:
        return mapping
    rest = dict(mapping)
    del rest[key]
    return rest


def _exceeds_limit(desired: Desired, name: str) -> bool:
    if len(desired.specs) < MOST_ADAPTERS:
        return False
    return len({name, *(ordered for ordered, _ in desired.specs)}) > MOST_ADAPTERS


def _conflict(desired: Desired, request: LoadRequest) -> Rejection | None:
    for slot in Slot:
        existing = desired.spec(request.lora_name, slot)
        if existing is not None and existing.owner != request.owner:
            return conflict(existing.name, existing.owner)
    return None


def _spec_of(desired: Desired, request: LoadRequest, order: int) -> AdapterSpec:
    """Return what an order wants; what was fetched for the same origin and revision is fetched already."""
    path, origin = files_of(request)
    active, staged = desired.spec(request.lora_name), desired.spec(request.lora_name, Slot.STAGED)
    held = None if active is None else active.held
    ordered = AdapterSpec(
        name=request.lora_name,
        path=path,
        owner=request.owner,
        revision=request.revision,
        order=order,
        held=held,
        origin=origin,
        credentials_revision=request.credentials_revision,
    )
    paths = (
        files.path
        for files in (active, staged, held)
        if files is not None and files.path and same_files(files, ordered)
    )
    return replace(ordered, path=path or next(paths, ""))


def _with_active(desired: Desired, spec: AdapterSpec) -> Desired:
    """Order it for the engine, and end what was staged for that."""
    staged = desired.spec(spec.name, Slot.STAGED)
    is_staged = staged is not None and same_files(staged, spec)
    specs = without(desired.specs, (spec.name, Slot.STAGED)) if is_staged else desired.specs
    return replace(
        desired,
        specs={**specs, (spec.name, Slot.ACTIVE): spec},
        leaving=desired.leaving - {spec.name},
        unloaded=without(desired.unloaded, spec.name),
        orders=spec.order,
    )


def _digest(request: LoadRequest) -> str:
    """Return what identifies an entry of the admission variable; no credential is in it."""
    path, origin = files_of(request)
    fields: list[object] = [request.lora_name, path, request.owner, request.revision]
    if origin is not None:
        fields.append(
            [origin.uri, origin.output_dir, origin.options, origin.secrets, *([True] if origin.expects else [])]
        )
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

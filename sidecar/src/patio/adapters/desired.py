"""What this pod should have, and how orders change it. Pure: every function returns a new `Desired`.

Orders come from `routes` and, once at start, from the variable that admission put in. `store` writes a `Desired`
down before it counts; `plan` compares it with the engine. Nothing here knows an engine or a clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TypeVar

from patio.adapters.fetching import Origin, files_of
from patio_protocol.adapters import LoadRequest

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Held:
    """Which weights the sidecar last saw the engine take, under some name."""

    path: str
    revision: str | None
    origin: Origin | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
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
    held: Held | None = None
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
    """Everything wanted, and every name on its way out."""

    wanted: Mapping[str, Wanted] = field(default_factory=dict)
    prepared: Mapping[str, Wanted] = field(default_factory=dict)
    """What is fetched ahead, by name: the engine gets none of it before another order says so."""
    leaving: frozenset[str] = frozenset()
    """Names ordered away that the engine may still have."""
    unloaded: Mapping[str, str] = field(default_factory=dict)
    """Paths of names ordered away from an engine whose requests bring such back; the last ones only."""
    required_seen: Mapping[str, str] = field(default_factory=dict)
    """Digest of each entry of the admission variable that was taken in, so that a restart does not bring back what was
    unloaded since."""
    orders: int = 0


MOST_ADAPTERS = 2000
"""Names that are wanted or prepared on a pod. Each costs work at every change and a part of every report."""
MOST_UNLOADED = 100
"""Names in `Desired.unloaded`."""


class Outcome(StrEnum):
    """What an order for unloading came to."""

    LEAVING = "leaving"
    """The engine is to let go of it."""
    UNKNOWN = "unknown"
    """Neither wanted nor present."""
    KEPT = "kept"
    """There, and not the caller's to remove."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """A name that somebody else wants."""

    name: str
    holder: str | None

    @property
    def message(self) -> str:
        """The conflict in words, with its remedy."""
        holder = f"is wanted by {self.holder}" if self.holder else "was loaded by hand"
        return f"Adapter {self.name} {holder} on this pod; unload it there first or choose another name."


@dataclass(frozen=True, slots=True)
class TooMany:
    """One name more than a pod takes."""

    name: str

    @property
    def message(self) -> str:
        """The limit in words, with the remedy."""
        return f"{MOST_ADAPTERS} adapters are wanted on this pod, which is the most; unload others before {self.name}."


Refusal = Conflict | TooMany
"""Why an order is not taken."""


def with_load(desired: Desired, request: LoadRequest) -> Desired | Refusal:
    """Want an adapter, or have its files fetched ahead; or say who wants the name already, or that there are enough."""
    conflict = _conflict(desired, request)
    if conflict is not None:
        return conflict
    if _is_one_too_many(desired, request.lora_name):
        return TooMany(request.lora_name)
    orders = desired.orders + 1
    if request.prepare:
        ahead = _ordered(desired, request, orders)
        return replace(desired, prepared={**desired.prepared, ahead.name: ahead}, orders=orders)
    before = desired.wanted.get(request.lora_name)
    after = replace(
        _ordered(desired, request, orders),
        required=before is not None and before.required,
        served=before is not None and before.served,
    )
    return _with_wanted(desired, after)


def with_unload(desired: Desired, name: str, owner: str | None, present: bool) -> tuple[Desired, Outcome]:
    """Stop wanting an adapter. `present`: the engine lists it, whoever loaded it."""
    before, ahead = desired.wanted.get(name), desired.prepared.get(name)
    if ahead is not None and owner in (None, ahead.owner):
        desired = replace(desired, prepared=_without(desired.prepared, name))
        if before is None and not (present and owner is None):
            return desired, Outcome.LEAVING
    if before is None:
        if name in desired.leaving:
            return desired, Outcome.LEAVING
        if not present:
            return desired, Outcome.UNKNOWN
        if owner is not None:
            return desired, Outcome.KEPT
    elif owner is not None and owner != before.owner:
        return desired, Outcome.KEPT
    return replace(desired, wanted=_without(desired.wanted, name), leaving=desired.leaving | {name}), Outcome.LEAVING


def with_unloaded(desired: Desired, name: str, path: str) -> Desired:
    """Remember from where the engine may load a name again that was ordered away."""
    last = [*_without(desired.unloaded, name).items(), (name, path)][-MOST_UNLOADED:]
    return replace(desired, unloaded=dict(last))


def returned(desired: Desired, listed: Mapping[str, str]) -> frozenset[str]:
    """Return the names that were ordered away and are listed again, from the path that they had."""
    return frozenset(
        name
        for name, path in desired.unloaded.items()
        if listed.get(name) == path and name not in desired.wanted and name not in desired.leaving
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
        if _is_one_too_many(desired, request.lora_name):
            continue
        wanted = replace(_ordered(desired, request, desired.orders + 1), required=True)
        seen = {**desired.required_seen, wanted.name: digest}
        desired = replace(_with_wanted(desired, wanted), required_seen=seen)
    return desired


def with_loaded(desired: Desired, loaded: Wanted) -> Desired:
    """Remember that the engine took these weights, whatever is wanted by now."""
    now = desired.wanted.get(loaded.name)
    if now is None:
        return desired
    after = replace(now, served=True, held=Held(loaded.path, loaded.revision, loaded.origin))
    return desired if after == now else replace(desired, wanted={**desired.wanted, now.name: after})


def with_fetched(desired: Desired, fetched: Wanted, folder: str) -> Desired:
    """Take in where an origin's files are, for whatever of it is still wanted. An empty folder: no longer there."""
    wanted, prepared = (_found(part, fetched, folder) for part in (desired.wanted, desired.prepared))
    if wanted is desired.wanted and prepared is desired.prepared:
        return desired
    return replace(desired, wanted=wanted, prepared=prepared)


def same_files(one: Wanted | Held, other: Wanted) -> bool:
    """Whether both are fetched from one origin in one revision, so that the files of one are those of the other."""
    return one.origin is not None and (one.origin, one.revision) == (other.origin, other.revision)


def folders_in_use(desired: Desired, listed: Iterable[str]) -> frozenset[str]:
    """Return every folder that an engine has or may be asked to take. `listed`: the paths in the engine's own list."""
    ordered = [one.path for one in (*desired.wanted.values(), *desired.prepared.values())]
    held = [one.held.path for one in desired.wanted.values() if one.held is not None]
    return frozenset(path for path in (*ordered, *held, *listed) if path)


def sources_at_hand(desired: Desired) -> frozenset[str]:
    """Return the sources of orders whose files are there."""
    ordered = (*desired.wanted.values(), *desired.prepared.values())
    return frozenset(one.origin.uri for one in ordered if one.origin is not None and one.path)


def with_gone(desired: Desired, names: Iterable[str]) -> Desired:
    """Forget names on their way out that the engine has let go of."""
    left = desired.leaving.difference(names)
    return desired if left == desired.leaving else replace(desired, leaving=left)


def _is_one_too_many(desired: Desired, name: str) -> bool:
    if len(desired.wanted) + len(desired.prepared) < MOST_ADAPTERS:
        return False
    return len({*desired.wanted, *desired.prepared, name}) > MOST_ADAPTERS


def _conflict(desired: Desired, request: LoadRequest) -> Conflict | None:
    for part in (desired.wanted, desired.prepared):
        before = part.get(request.lora_name)
        if before is not None and before.owner != request.owner:
            return Conflict(before.name, before.owner)
    return None


def _ordered(desired: Desired, request: LoadRequest, order: int) -> Wanted:
    """Return what an order wants; what was fetched for the same origin and revision is fetched already."""
    path, origin = files_of(request)
    before, ahead = desired.wanted.get(request.lora_name), desired.prepared.get(request.lora_name)
    ordered = Wanted(
        name=request.lora_name,
        path=path,
        owner=request.owner,
        revision=request.revision,
        order=order,
        held=None if before is None else before.held,
        origin=origin,
        credentials_revision=request.credentials_revision,
    )
    held = None if before is None else before.held
    there = (one.path for one in (before, ahead, held) if one is not None and one.path and same_files(one, ordered))
    return replace(ordered, path=path or next(there, ""))


def _with_wanted(desired: Desired, wanted: Wanted) -> Desired:
    """Want it, and end what was prepared for that."""
    ahead = desired.prepared.get(wanted.name)
    taken = ahead is not None and same_files(ahead, wanted)
    return replace(
        desired,
        wanted={**desired.wanted, wanted.name: wanted},
        prepared=_without(desired.prepared, wanted.name) if taken else desired.prepared,
        leaving=desired.leaving - {wanted.name},
        unloaded=_without(desired.unloaded, wanted.name),
        orders=wanted.order,
    )


def _found(part: Mapping[str, Wanted], fetched: Wanted, folder: str) -> Mapping[str, Wanted]:
    now = part.get(fetched.name)
    if now is None or not same_files(now, fetched) or now.path == folder:
        return part
    return {**part, now.name: replace(now, path=folder)}


def _without(part: Mapping[str, _T], name: str) -> Mapping[str, _T]:
    return {key: one for key, one in part.items() if key != name}


def _digest(request: LoadRequest) -> str:
    """Return what tells one entry of the admission variable from another; no credential is in it."""
    path, origin = files_of(request)
    said: list[object] = [request.lora_name, path, request.owner, request.revision]
    if origin is not None:
        said.append(
            [origin.uri, origin.output_dir, origin.options, origin.secrets, *([True] if origin.expects else [])]
        )
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

"""What this pod should have, and how orders change it. Pure: every function returns a new `Desired`.

Orders come from `api.routes` and, once at start, from the variable that admission put in. `store` writes a `Desired`
down before it counts; `plan` compares it with the engine. Nothing here knows an engine or a clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from patio.adapters.fetching import Origin, files_of
from patio.api.protocol import LoadRequest


@dataclass(frozen=True, slots=True)
class Held:
    """Which weights the sidecar last saw the engine take, under some name."""

    path: str
    revision: str | None


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
    leaving: frozenset[str] = frozenset()
    """Names ordered away that the engine may still have."""
    required_seen: Mapping[str, str] = field(default_factory=dict)
    """Digest of each entry of the admission variable that was taken in, so that a restart does not bring back what was
    unloaded since."""
    orders: int = 0


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


def with_load(desired: Desired, request: LoadRequest) -> Desired | Conflict:
    """Want an adapter, or say who wants the name already."""
    before = desired.wanted.get(request.lora_name)
    if before is not None and before.owner != request.owner:
        return Conflict(before.name, before.owner)
    orders = desired.orders + 1
    path, origin = _files(request, before)
    after = Wanted(
        name=request.lora_name,
        path=path,
        owner=request.owner,
        revision=request.revision,
        required=before is not None and before.required,
        order=orders,
        served=before is not None and before.served,
        held=None if before is None else before.held,
        origin=origin,
    )
    return replace(
        desired,
        wanted={**desired.wanted, after.name: after},
        leaving=desired.leaving - {after.name},
        orders=orders,
    )


def with_unload(desired: Desired, name: str, owner: str | None, present: bool) -> tuple[Desired, Outcome]:
    """Stop wanting an adapter. `present`: the engine lists it, whoever loaded it."""
    before = desired.wanted.get(name)
    if before is None:
        if name in desired.leaving:
            return desired, Outcome.LEAVING
        if not present:
            return desired, Outcome.UNKNOWN
        if owner is not None:
            return desired, Outcome.KEPT
    elif owner is not None and owner != before.owner:
        return desired, Outcome.KEPT
    rest = {key: one for key, one in desired.wanted.items() if key != name}
    return replace(desired, wanted=rest, leaving=desired.leaving | {name}), Outcome.LEAVING


def with_required(desired: Desired, required: Iterable[LoadRequest]) -> Desired:
    """Take in what admission asks for, except what was taken in before: orders made since then count more."""
    for request in required:
        digest = _digest(request)
        if desired.required_seen.get(request.lora_name) == digest:
            continue
        orders = desired.orders + 1
        before = desired.wanted.get(request.lora_name)
        path, origin = _files(request, before)
        wanted = Wanted(
            name=request.lora_name,
            path=path,
            owner=request.owner,
            revision=request.revision,
            required=True,
            order=orders,
            held=None if before is None else before.held,
            origin=origin,
        )
        desired = Desired(
            wanted={**desired.wanted, wanted.name: wanted},
            leaving=desired.leaving - {wanted.name},
            required_seen={**desired.required_seen, wanted.name: digest},
            orders=orders,
        )
    return desired


def with_loaded(desired: Desired, loaded: Wanted) -> Desired:
    """Remember that the engine took these weights, whatever is wanted by now."""
    now = desired.wanted.get(loaded.name)
    if now is None:
        return desired
    after = replace(now, served=True, held=Held(loaded.path, loaded.revision))
    return desired if after == now else replace(desired, wanted={**desired.wanted, now.name: after})


def with_fetched(desired: Desired, fetched: Wanted, folder: str) -> Desired:
    """Take in where an origin's files are, unless something else is wanted by now. An empty folder: no longer there."""
    now = desired.wanted.get(fetched.name)
    if now is None or (now.origin, now.revision) != (fetched.origin, fetched.revision) or now.path == folder:
        return desired
    return replace(desired, wanted={**desired.wanted, now.name: replace(now, path=folder)})


def folders_in_use(desired: Desired, listed: Iterable[str]) -> frozenset[str]:
    """Return every folder that an engine has or may be asked to take. `listed`: the paths in the engine's own list."""
    wanted = [one.path for one in desired.wanted.values()]
    held = [one.held.path for one in desired.wanted.values() if one.held is not None]
    return frozenset(path for path in (*wanted, *held, *listed) if path)


def with_gone(desired: Desired, names: Iterable[str]) -> Desired:
    """Forget names on their way out that the engine has let go of."""
    left = desired.leaving.difference(names)
    return desired if left == desired.leaving else replace(desired, leaving=left)


def _files(request: LoadRequest, before: Wanted | None) -> tuple[str, Origin | None]:
    """Return path and origin of an order; what was fetched for the same origin and revision is fetched already."""
    path, origin = files_of(request)
    if origin is None or before is None or (before.origin, before.revision) != (origin, request.revision):
        return path, origin
    return before.path, origin


def _digest(request: LoadRequest) -> str:
    """Return what tells one entry of the admission variable from another; no credential is in it."""
    path, origin = files_of(request)
    said: list[object] = [request.lora_name, path, request.owner, request.revision]
    if origin is not None:
        said.append([origin.uri, origin.output_dir, origin.options, origin.secrets])
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

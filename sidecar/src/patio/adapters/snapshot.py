"""All that the sidecar knows of its adapters at one moment, as one value, and how it changes. Pure.

`planner` decides from an `AdapterSnapshot`; `observation` takes an engine's answer into it. Every function here returns
a new snapshot. `State` holds the current one: the reconciler and its executor are its only writers, on one event loop.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field, replace
from typing import Concatenate, ParamSpec, TypeVar

from patio.adapters.desired import AdapterSpec, Desired, Key, Slot, same_files, without
from patio.adapters.fetching import Credentials
from patio.adapters.plan import Action, Fetch, Unload
from patio.adapters.progress import Progress, current
from patio.engine.base import Capacity, EngineView

_P = ParamSpec("_P")
_T = TypeVar("_T")

UNOBSERVED = EngineView(ready=False, adapters=None)
"""The view before the engine was polled for the first time."""


@dataclass(frozen=True, slots=True)
class AdapterSnapshot:
    """The adapters of one pod. What is known of one order is found under its name and slot in each mapping."""

    desired: Desired
    view: EngineView = UNOBSERVED
    life: int = 0
    """Counts the times that the engine became ready."""
    progress: Mapping[Key, Progress] = field(default_factory=dict)
    running: Mapping[Key, Action] = field(default_factory=dict)
    """The running actions."""
    asked_at: Mapping[Key, float] = field(default_factory=dict)
    """When the engine was asked to carry an action out; absent while the action waits for its turn."""
    credentials: Mapping[Key, Credentials] = field(default_factory=dict, repr=False)
    """In memory only: they do not survive a restart of the sidecar."""
    unverified: frozenset[Key] = frozenset()
    """Staged before this start of the sidecar, which has not yet checked that the files are still there."""
    capacity: Capacity = field(default_factory=Capacity)
    base_models: Mapping[str, str] = field(default_factory=dict)
    """The base model that an adapter's files name, by the adapter's path."""
    engine: str = ""
    """Which engine it is."""
    unloads_wait: bool = False
    """Whether an unload waits for the running requests, and every other change behind it."""
    changed_files: frozenset[str] = frozenset()
    """Adapters whose files changed since their last attempt, and are no longer changing."""
    now: float = 0.0

    def progress_of(self, spec: AdapterSpec, slot: Slot = Slot.ACTIVE) -> Progress:
        """Return the progress that still counts. What is staged does not depend on the engine's life."""
        return current(self.progress.get((spec.name, slot)), spec, self.life if slot is Slot.ACTIVE else 0)


class State:
    """The current snapshot."""

    def __init__(self, snapshot: AdapterSnapshot) -> None:
        self.snapshot = snapshot

    def apply(
        self, change: Callable[Concatenate[AdapterSnapshot, _P], AdapterSnapshot], *args: _P.args, **kwargs: _P.kwargs
    ) -> None:
        """Replace the snapshot by what `change` returns for it and the arguments."""
        self.snapshot = change(self.snapshot, *args, **kwargs)


def holds(spec: AdapterSpec, path: str | None) -> bool:
    """Whether the engine, listing this path under the name, has the desired weights."""
    if path is None or not same_path(path, spec.path):
        return False
    # The list has paths, not revisions: a revision is loaded if the sidecar saw the engine accept it.
    return spec.revision is None or (spec.held is not None and spec.held.revision == spec.revision)


def same_path(path: str, other: str) -> bool:
    """Whether two paths name one folder."""
    return path == other or posixpath.normpath(path) == posixpath.normpath(other)


def with_desired(snapshot: AdapterSnapshot, desired: Desired) -> AdapterSnapshot:
    """Replace what is desired."""
    return snapshot if desired is snapshot.desired else replace(snapshot, desired=desired)


def with_base_model(snapshot: AdapterSnapshot, path: str, base_model: str) -> AdapterSnapshot:
    """Note for which base model the adapter in a folder was trained; empty: unknown."""
    return replace(snapshot, base_models={**snapshot.base_models, path: base_model})


def with_verified(snapshot: AdapterSnapshot, key: Key) -> AdapterSnapshot:
    """Note that it was checked whether staged files are still there."""
    return replace(snapshot, unverified=snapshot.unverified - {key})


def with_started(snapshot: AdapterSnapshot, action: Action) -> AdapterSnapshot:
    """Note that an action is running."""
    return replace(snapshot, running={**snapshot.running, action.key: action})


def with_asked(snapshot: AdapterSnapshot, key: Key, now: float) -> AdapterSnapshot:
    """Note that the engine was asked to carry an action out."""
    return replace(snapshot, asked_at={**snapshot.asked_at, key: now})


def with_ended(snapshot: AdapterSnapshot, key: Key) -> AdapterSnapshot:
    """Note that no action is running for a key any more."""
    if key not in snapshot.running and key not in snapshot.asked_at:
        return snapshot
    return replace(snapshot, running=without(snapshot.running, key), asked_at=without(snapshot.asked_at, key))


def with_progress(snapshot: AdapterSnapshot, key: Key, progress: Progress | None) -> AdapterSnapshot:
    """Note how attempts went so far. None: that no longer counts."""
    kept = without(snapshot.progress, key) if progress is None else {**snapshot.progress, key: progress}
    return replace(snapshot, progress=kept)


def with_credentials(snapshot: AdapterSnapshot, key: Key, credentials: Credentials) -> AdapterSnapshot:
    """Replace the credentials of an order."""
    kept = {**snapshot.credentials, key: credentials} if credentials else without(snapshot.credentials, key)
    return replace(snapshot, credentials=kept)


def is_outdated(snapshot: AdapterSnapshot, action: Action) -> bool:
    """Whether an action is a fetch of files that are no longer desired."""
    if not isinstance(action, Fetch):
        return False
    spec = snapshot.desired.specs.get(action.key)
    return spec is None or not same_files(spec, action.spec)


def pruned(snapshot: AdapterSnapshot) -> AdapterSnapshot:
    """Forget credentials and progress of what is neither desired nor being unloaded."""
    desired = snapshot.desired
    out = {*desired.leaving, *desired.unloaded, *snapshot.view.trials}
    # An action may end after the order that no longer wants its adapter.
    kept = desired.specs.keys() | {(name, Slot.ACTIVE) for name in out} | snapshot.running.keys()
    progress, credentials = _only(snapshot.progress, kept), _only(snapshot.credentials, desired.specs.keys())
    if progress is snapshot.progress and credentials is snapshot.credentials:
        return snapshot
    return replace(snapshot, progress=progress, credentials=credentials)


def paths_in_use(snapshot: AdapterSnapshot) -> frozenset[str]:
    """Return every folder that the engine has, or that a running action may still give it."""
    specs = [action.spec for action in snapshot.running.values() if not isinstance(action, Unload)]
    held = [spec.held.path for spec in specs if spec.held is not None]
    return frozenset([*(snapshot.view.adapters or {}).values(), *(spec.path for spec in specs), *held])


def _only(mapping: Mapping[Key, _T], keys: Set[Key]) -> Mapping[Key, _T]:
    if mapping.keys() <= keys:
        return mapping
    return {key: value for key, value in mapping.items() if key in keys}

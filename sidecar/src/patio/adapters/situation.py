"""What plans are made from and what they are made of. Pure data.

The reconciler builds a `Situation`; `plan` and `prepare` answer with actions, waits and reports. An action names what
is done and why; it is carried out in a task of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from patio.adapters.desired import Desired, Wanted
from patio.adapters.progress import Progress
from patio.engine.base import EngineView
from patio_protocol.adapters import AdapterReport

UNSEEN = EngineView(ready=False, adapters=None)
"""The view before the first look."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """Bring the files of an origin to disk, whatever the engine is doing."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Prepare:
    """Bring the files of an origin to disk ahead of the order that will want them loaded."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Load:
    """Load an adapter under a free name."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Reload:
    """Put the wanted weights under a name that holds others."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Restore:
    """Put the weights that were held before under a free name, since the wanted ones can not be had."""

    wanted: Wanted
    reason: str


@dataclass(frozen=True, slots=True)
class Unload:
    """Make the engine let go of a name."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for a name before a moment."""

    name: str
    until: float
    reason: str


Action = Fetch | Load | Reload | Restore | Unload
"""What is done about what is wanted; at most one at a time for a name. A `Prepare` may go on beside it."""


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a plan is made from."""

    desired: Desired
    view: EngineView = UNSEEN
    life: int = 0
    """Counts the times that the engine came up."""
    progress: Mapping[str, Progress] = field(default_factory=dict)
    busy: Mapping[str, Action] = field(default_factory=dict)
    """What is under way, by name."""
    began: Mapping[str, float] = field(default_factory=dict)
    """When the engine was asked for it; not there while it waits for its turn."""
    unloads_wait: bool = False
    """Whether an unload waits for the requests under way, and every other change behind it."""
    changed: frozenset[str] = frozenset()
    """Names whose files changed since their last attempt, and have come to rest."""
    credentials: frozenset[str] = frozenset()
    """Names whose credentials are at hand; they do not survive a restart of the sidecar."""
    prepare_progress: Mapping[str, Progress] = field(default_factory=dict)
    preparing: Mapping[str, Prepare] = field(default_factory=dict)
    prepare_credentials: frozenset[str] = frozenset()
    """As the three above, for what is fetched ahead."""
    unseen: frozenset[str] = frozenset()
    """Names that were prepared before this start of the sidecar, and whose files were not looked for since."""
    limit: int | None = None
    """Adapters that the engine keeps loaded; one more makes it evict another. None: it has no such limit, or none is
    known."""
    made_for: Mapping[str, str] = field(default_factory=dict)
    """The base model that an adapter's files name, by the adapter's path."""
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, what to wait for, and how things stand before it is done."""

    actions: tuple[Action | Prepare, ...]
    waits: tuple[Wait, ...]
    reports: tuple[AdapterReport, ...]

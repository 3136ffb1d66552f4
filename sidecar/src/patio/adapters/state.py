"""What the reconciler knows at this moment: mutable, and written only by it and its executor, on one event loop.

`plan` never sees this: it gets the `Situation` that `situation()` returns, which is used before anything is awaited.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from patio.adapters.desired import Desired
from patio.adapters.fetching import Credentials
from patio.adapters.progress import Progress
from patio.adapters.situation import UNSEEN, Action, Prepare, Situation
from patio.engine.base import Capacity, EngineView


@dataclass(slots=True)
class State:
    """The adapters of one pod, as far as the sidecar knows."""

    desired: Desired
    view: EngineView = UNSEEN
    life: int = 0
    """Counts the times that the engine came up."""
    capacity: Capacity = field(default_factory=Capacity)
    progress: dict[str, Progress] = field(default_factory=dict)
    busy: dict[str, Action] = field(default_factory=dict)
    began: dict[str, float] = field(default_factory=dict)
    """When the engine was asked for what is under way."""
    credentials: dict[str, Credentials] = field(default_factory=dict)
    """By adapter; in memory only."""
    preparing: dict[str, Prepare] = field(default_factory=dict)
    prepare_progress: dict[str, Progress] = field(default_factory=dict)
    prepare_credentials: dict[str, Credentials] = field(default_factory=dict)
    unseen: set[str] = field(default_factory=set)
    """Names that were prepared before this start of the sidecar, and whose files were not looked for since."""
    made_for: dict[str, str] = field(default_factory=dict)
    """The base model that an adapter's files name, by the adapter's path."""

    def free(self, name: str) -> None:
        """Note that nothing is under way for a name any more."""
        self.busy.pop(name, None)
        self.began.pop(name, None)

    def situation(self, now: float, changed: frozenset[str], *, unloads_wait: bool) -> Situation:
        """Return what a plan is made from. It shares this state's mappings: use it before anything changes."""
        return Situation(
            desired=self.desired,
            view=self.view,
            life=self.life,
            progress=self.progress,
            busy=self.busy,
            began=self.began,
            unloads_wait=unloads_wait,
            changed=changed,
            credentials=frozenset(self.credentials),
            prepare_progress=self.prepare_progress,
            preparing=self.preparing,
            prepare_credentials=frozenset(self.prepare_credentials),
            unseen=frozenset(self.unseen),
            limit=self.capacity.loaded,
            made_for=self.made_for,
            now=now,
        )

"""What a plan is made of: actions, each with its reason, and when to plan again. Pure data.

`planner` returns a `Plan`; `executor` carries its actions out, each in a task of its own. An action says what is done,
to which adapter and why. At most one action at a time runs for a key.
"""

from __future__ import annotations

from dataclasses import dataclass

from patio.adapters.desired import AdapterSpec, Key, Slot
from patio_protocol.adapters import AdapterReport


@dataclass(frozen=True, slots=True)
class Fetch:
    """Download the files of an adapter, whatever the engine is doing."""

    spec: AdapterSpec
    reason: str
    slot: Slot = Slot.ACTIVE
    """STAGED: ahead of the order that will have them loaded."""

    @property
    def key(self) -> Key:
        """What it is done for."""
        return self.spec.name, self.slot


@dataclass(frozen=True, slots=True)
class Load:
    """Load an adapter under a free name."""

    spec: AdapterSpec
    reason: str

    @property
    def key(self) -> Key:
        """What it is done for."""
        return self.spec.name, Slot.ACTIVE


@dataclass(frozen=True, slots=True)
class Reload:
    """Replace the weights under a name by the desired ones."""

    spec: AdapterSpec
    reason: str

    @property
    def key(self) -> Key:
        """What it is done for."""
        return self.spec.name, Slot.ACTIVE


@dataclass(frozen=True, slots=True)
class Restore:
    """Load the previous weights under a free name, because the desired ones cannot be loaded."""

    spec: AdapterSpec
    reason: str

    @property
    def key(self) -> Key:
        """What it is done for."""
        return self.spec.name, Slot.ACTIVE


@dataclass(frozen=True, slots=True)
class Unload:
    """Unload a name."""

    name: str
    reason: str

    @property
    def key(self) -> Key:
        """What it is done for."""
        return self.name, Slot.ACTIVE


Action = Fetch | Load | Reload | Restore | Unload


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, how the adapters stand before it is done, and when to plan again though nothing changed."""

    actions: tuple[Action, ...]
    reports: tuple[AdapterReport, ...]
    requeue_at: float | None = None

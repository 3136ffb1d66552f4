"""What sidecars report: the planner's view of engines and the adapters in them. Values only, decoded by
`sidecar_answer`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from patio_protocol.adapters import AdapterState, PreparedState


@dataclass(frozen=True, slots=True)
class Prepared:
    """Files that were asked for ahead of their use (`patio_protocol.adapters.PreparedReport`)."""

    revision: str | None
    state: PreparedState
    reason: str
    message: str = ""
    retryable: bool = True
    credentials_revision: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What a sidecar says of one adapter: of `patio_protocol.adapters.AdapterReport` what is planned from.

    A large fleet has hundreds of thousands: these are small, and share their texts.
    """

    lora_name: str
    state: AdapterState
    owner: str | None = None
    revision: str | None = None
    reason: str = ""
    message: str = ""
    attempts: int = 0
    since: float = 0.0
    held_revision: str | None = None
    credentials_revision: str | None = None
    prepared: Prepared | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many adapters an engine was started for; None: it does not tell."""

    batch: int | None = None
    loaded: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a sidecar says (`patio_protocol.adapters.AdapterList`); read by `sidecar_answer`."""

    revision: str
    engine_ready: bool
    base_models: tuple[str, ...] = ()
    adapters: tuple[Report, ...] = ()
    capacity: Capacity = Capacity()
    on_disk: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Observation:
    """What is known of a pod's sidecar: its last answer, or why there is none."""

    answer: Answer | None = None
    problem: str = ""
    """Why there is no answer, in a sentence."""
    ever_answered: bool = False
    unreachable_since: datetime | None = None
    """When it was first asked in vain. None while it answers, and before anybody asked."""
    last: Answer | None = None
    """What it answered before it fell silent: who had what, not what is."""

    @property
    def polled(self) -> bool:
        """Whether it is known to answer or not to."""
        return self.answer is not None or self.unreachable_since is not None

    def report(self, name: str) -> Report | None:
        """Return the sidecar's report on an adapter."""
        if self.answer is None:
            return None
        return next((report for report in self.answer.adapters if report.lora_name == name), None)


UNOBSERVED = Observation(problem="The sidecar has not answered yet.")

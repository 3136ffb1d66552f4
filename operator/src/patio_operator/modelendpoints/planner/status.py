"""What is said of a ModelEndpoint: its counts, how far the next worker is, and its conditions. Pure.

Each condition has its cause in one place: `Problem` says what keeps the endpoint from being as it should be, found by
the planner; everything else follows from the workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from patio_api.conditions import TIME_FORMAT, next_condition
from patio_api.model_endpoint import MAX_MODELS, ModelEndpoint, Progress, WorkerCounts
from patio_operator.modelendpoints.planner import naming
from patio_operator.modelendpoints.planner.snapshot import PodState, Snapshot
from patio_operator.modelendpoints.planner.workers import GroupState, Worker, furthest

LONGEST_MESSAGE = 1024
"""Characters of a message: it may quote an engine."""


@dataclass(frozen=True)
class Problem:
    """What keeps the endpoint from being as it should be, and what to do."""

    reason: str
    message: str
    blocks: bool = True
    """Whether no worker of the current revision can be made because of it."""


@dataclass(frozen=True)
class Findings:
    """What the planner found out."""

    desired: int
    current: GroupState | None
    old: tuple[GroupState, ...]
    problems: tuple[Problem, ...] = ()
    stopped_by: Worker | None = None
    """The worker for which a roll has stopped."""
    names: tuple[str, ...] = ()
    """The endpoint's names that are its own."""

    @property
    def updated(self) -> int:
        """Return how many workers of the current revision answer."""
        return self.current.ready if self.current is not None else 0

    @property
    def ready(self) -> int:
        """Return how many workers answer, of any revision."""
        return self.updated + sum(state.ready for state in self.old)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Return the workers of the current revision."""
        return self.current.workers if self.current is not None else ()

    @property
    def rolling(self) -> bool:
        """Whether there are workers of an old revision."""
        return any(state.pods or state.group.workers for state in self.old)

    @property
    def pods(self) -> int:
        """Return how many pods there are."""
        return sum(state.pods for state in (*self.old, *((self.current,) if self.current else ())))


def status(snapshot: Snapshot, findings: Findings) -> dict[str, Any]:
    """Return the whole status, with the times of conditions that did not change."""
    endpoint, before = snapshot.endpoint, snapshot.endpoint.status
    workers = findings.workers
    failed = sum(worker.failing for worker in workers)
    everyone = [*workers, *(worker for state in findings.old for worker in state.workers)]
    counts = WorkerCounts(
        desired=findings.desired,
        ready=findings.ready,
        updated=findings.updated,
        loading=sum(not worker.ready and not worker.failing for worker in workers),
        failed=failed,
    )
    progress = _progress(snapshot, findings)
    demand = snapshot.demand
    activities = [time for time in (demand.last_activity, before.last_activity) if time is not None]
    written: dict[str, Any] = {
        "observedGeneration": endpoint.metadata.generation,
        "revision": naming.revision(endpoint),
        "modelName": endpoint.model_name,
        "models": list(dict.fromkeys((*findings.names, *sorted(snapshot.adapters))))[:MAX_MODELS],
        "workers": counts.to_api(),
        "replicas": len(everyone),
        "selector": ",".join(f"{key}={value}" for key, value in naming.selector(endpoint).items()),
        "queued": demand.held if demand.reported else before.queued,
        "inFlight": demand.in_flight if demand.reported else before.in_flight,
        "url": _url(snapshot),
        "conditions": _conditions(snapshot, findings, progress),
    }
    if activities:
        written["lastActivity"] = max(activities).astimezone(UTC).strftime(TIME_FORMAT)
    if progress is not None:
        written["progress"] = progress.to_api()
    if before.last_decision is not None:
        written["lastDecision"] = before.last_decision.to_api()
    return written


def unreadable(body: Mapping[str, Any], message: str, now: datetime) -> dict[str, Any]:
    """Return the status of an object that cannot be read: what there was, and why nothing is done for it."""
    before = body.get("status") or {}
    conditions = before.get("conditions") or []
    generation = body["metadata"].get("generation", 0)
    sentence = f"Nothing is done for this ModelEndpoint: {message}"[:LONGEST_MESSAGE]
    kept = [condition for condition in conditions if condition.get("type") not in ("Ready", "Degraded")]
    stale = [condition for condition in conditions if condition.get("type") in ("Ready", "Degraded")]
    ready = next_condition(stale, "Ready", "False", "InvalidSpec", sentence, generation, now)
    degraded = next_condition(stale, "Degraded", "True", "InvalidSpec", sentence, generation, now)
    return {**before, "observedGeneration": generation, "conditions": [ready, *kept, degraded]}


def _url(snapshot: Snapshot) -> str:
    if snapshot.gateway_url:
        return f"{snapshot.gateway_url.rstrip('/')}/v1"
    metadata = snapshot.endpoint.metadata
    return f"http://{naming.service(snapshot.endpoint)}.{metadata.namespace}.svc/v1"


def _progress(snapshot: Snapshot, findings: Findings) -> Progress | None:
    if findings.desired == 0:
        can_wake = snapshot.endpoint.spec.workers.max > 0
        message = "No worker runs; the next request starts one." if can_wake else "workers.max is 0: no worker starts."
        return None if findings.ready else Progress(phase="Asleep", message=message)
    worker = furthest(findings.workers)
    if worker is None and findings.workers:
        return None
    if worker is None:
        return Progress(phase="Scheduling", message="The group of the workers does not exist yet.")
    pod = "" if worker.pod is None else worker.pod.name
    if worker.failing:
        return Progress(phase="Failing", pod=pod, message=_shown(f"{worker.name}: {worker.message}"))
    if worker.pod is None:
        return Progress(phase="Scheduling", message=_shown(f"{worker.name}: {worker.message}"))
    percent = snapshot.downloads.get(worker.pod.uid)
    phase, message, percent = _step(worker.state, worker.message, percent)
    return Progress(phase=phase, percent=percent, pod=pod, message=_shown(f"{worker.name} {message}"))


def _step(state: PodState, detail: str, percent: int | None) -> tuple[Any, str, int | None]:
    if state is PodState.SCHEDULING:
        return "Scheduling", f"waits for a node: {detail}", None
    if state is PodState.PULLING:
        return "Pulling", f"starts its containers: {detail}", None
    if percent is not None and percent < 100:
        return "Downloading", f"downloads the model: {max(percent, 0)} %", max(percent, 0)
    return "Loading", "loads the model", None


def _conditions(snapshot: Snapshot, findings: Findings, progress: Progress | None) -> list[dict[str, Any]]:
    endpoint = snapshot.endpoint
    before = [condition.to_api() for condition in endpoint.status.conditions]
    generation = endpoint.metadata.generation

    def condition(type_: str, status_: bool, reason: str, message: str) -> dict[str, Any]:
        text = "True" if status_ else "False"
        return next_condition(before, type_, text, reason, _shown(message), generation, snapshot.now)

    return [
        condition("Ready", *_ready(snapshot, findings, progress)),
        condition("Progressing", *_progressing(findings, progress)),
        condition("ScaledToZero", *_scaled_to_zero(endpoint, findings)),
        condition("Degraded", *_degraded(findings)),
    ]


def _ready(snapshot: Snapshot, findings: Findings, progress: Progress | None) -> tuple[bool, str, str]:
    blocking = next((problem for problem in findings.problems if problem.blocks), None)
    if blocking is not None:
        return False, blocking.reason, blocking.message
    if findings.updated:
        return True, "Serving", f"{_of(findings.updated, findings.desired)} of the current revision answer requests."
    if findings.desired == 0:
        return False, "ScaledToZero", _asleep(snapshot.endpoint)
    where = progress.message if progress is not None else ""
    if findings.ready:
        others = f"Workers of older revisions that answer: {findings.ready}"
        return False, "Rolling", f"No worker of the current revision answers yet. {others}. {where}"
    failing = next((worker for worker in findings.workers if worker.failing), None)
    if failing is not None:
        return False, "WorkerFailed", f"No worker answers. {failing.name}: {failing.message}"
    return False, "Loading", f"No worker answers yet. {where}"


def _progressing(findings: Findings, progress: Progress | None) -> tuple[bool, str, str]:
    if any(problem.blocks for problem in findings.problems):
        return False, "Blocked", "No worker of the current revision is made, see the condition Ready."
    if findings.stopped_by is not None:
        return False, "RollStopped", _stopped(findings.stopped_by)
    if findings.rolling and findings.desired:
        left = sum(len(state.workers) for state in findings.old)
        updated = _of(findings.updated, findings.desired)
        return True, "Rolling", f"{updated} of the current revision answer; older ones that are left: {left}."
    if findings.desired == 0 and findings.pods:
        return True, "ScalingDown", f"Pods that answer their last requests and end: {findings.pods}."
    if len(findings.workers) != findings.desired:
        return True, "Scaling", f"Workers: {len(findings.workers)}; wanted: {findings.desired}."
    if findings.updated < findings.desired:
        return True, "Loading", progress.message if progress is not None else "Workers start."
    return False, "Complete", "Nothing is in progress."


def _scaled_to_zero(endpoint: ModelEndpoint, findings: Findings) -> tuple[bool, str, str]:
    if findings.desired or findings.pods:
        return (
            False,
            "HasWorkers",
            f"Workers that are wanted: {findings.desired}; pods that there are: {findings.pods}.",
        )
    return True, "NoWorkers", _asleep(endpoint)


def _degraded(findings: Findings) -> tuple[bool, str, str]:
    if findings.stopped_by is not None:
        return True, "RollStopped", _stopped(findings.stopped_by)
    if findings.problems:
        return True, findings.problems[0].reason, findings.problems[0].message
    failing = [worker for worker in findings.workers if worker.failing]
    if failing:
        more = f" ({len(failing) - 1} more)" if len(failing) > 1 else ""
        return True, "WorkerFailed", f"{failing[0].name}: {failing[0].message}{more}"
    return False, "AsExpected", "No worker reports an error."


def _stopped(worker: Worker) -> str:
    remedy = "Correct the spec, or set it back: until then the older workers stay"
    return f"The update stopped, since {worker.name} does not start. {remedy}. {worker.message}"


def _asleep(endpoint: ModelEndpoint) -> str:
    if endpoint.spec.workers.max == 0:
        return "No worker runs, since workers.max is 0. Raise it to serve the model."
    if endpoint.spec.autoscaling == "external":
        return "No worker runs; what scales this ModelEndpoint from outside starts the next one."
    return "No worker runs; the next request starts one."


def _of(number: int, desired: int) -> str:
    return f"{number} of {desired} workers"


def _shown(message: str) -> str:
    text = " ".join(message.split())
    return text if len(text) <= LONGEST_MESSAGE else f"{text[: LONGEST_MESSAGE - 3]}..."


def first_blocking(problems: Sequence[Problem]) -> Problem | None:
    """Return the first problem that keeps the current revision from being made."""
    return next((problem for problem in problems if problem.blocks), None)

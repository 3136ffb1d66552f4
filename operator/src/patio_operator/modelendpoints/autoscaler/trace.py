"""Traces of what the autoscaler saw, as JSON lines: `read_trace`, `read_line` and `write_line`. Pure.

One line is one step, in the order of time. An example, on several lines here:

    {"at": "2026-11-27T09:00:00+00:00", "replicas": 2,
     "workers": [{"name": "qwen-0", "state": "Ready", "age": 900, "inFlight": 12, "adapters": ["sql"]},
                 {"name": "qwen-1", "state": "Loading", "age": 40}],
     "gateways": [{"name": "gw-0", "age": 86400}],
     "reports": [{"gateway": "gw-0", "age": 0.8, "inFlight": 12, "held": 30, "idle": 0}],
     "queue": {"age": 1, "waiting": 0, "running": 0}}

`at` is RFC 3339, or a number of seconds of Unix time. `age` and `idle` are seconds before `at`: of a worker since it
was created, of a report since it was received, of a gateway since it became ready, and since its last request. `state`
is a `WorkerState`. Without `workers` they are unknown; a number stands for so many ready workers of which nothing is
known. Without `gateways` those that report are all there are, and `null` says that they are unknown. All other fields
may be missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from patio_api.bounded_json import read_json
from patio_operator.modelendpoints.autoscaler.observation import (
    DemandReport,
    Gateway,
    Observations,
    QueueReport,
    Worker,
    WorkerState,
)

LONGEST_LINE = 1_048_576
"""Characters."""
MOST_STEPS = 100_000
"""A day with a step each second."""
MOST_ENTRIES = 2000
"""Workers, gateways, reports, and adapters of a worker."""
LARGEST_COUNT = 10**9
LONGEST_AGE = 10**9
"""Seconds: thirty years."""
LONGEST_NAME = 253


class TraceError(ValueError):
    """A trace that cannot be read. The message names the line and what it must be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One line: what was seen, and when."""

    now: datetime
    observations: Observations


def read_trace(lines: Iterable[str]) -> Iterator[Step]:
    """Yield the steps of a trace; empty lines are skipped.

    Args:
        lines: may be cut at LONGEST_LINE + 1 characters.

    Raises:
        TraceError: a line cannot be read, is before the one above it, or there are too many.

    """
    before: datetime | None = None
    for number, line in enumerate(lines, 1):
        if number > MOST_STEPS:
            raise TraceError(f"line {number}: a trace has at most {MOST_STEPS} lines")
        if not line.strip():
            continue
        try:
            step = read_line(line)
        except TraceError as error:
            raise TraceError(f"line {number}: {error}") from error
        if before is not None and step.now < before:
            raise TraceError(f"line {number}: `at` is before that of the line above")
        before = step.now
        yield step


def read_line(line: str) -> Step:
    """Read one step.

    Raises:
        TraceError: it is not one.

    """
    if len(line) > LONGEST_LINE:
        raise TraceError(f"a line has at most {LONGEST_LINE} characters")
    value = read_json(line, LONGEST_LINE)
    if not isinstance(value, dict):
        raise TraceError("each line must be a JSON object")
    _check_fields(value, {"at", "replicas", "workers", "gateways", "reports", "queue"})
    now = _moment(value.get("at"))
    reports = tuple(
        DemandReport(
            gateway=_name(entry, "gateway"),
            at=_before(now, entry, "age", 0.0),
            in_flight=_count(entry, "inFlight"),
            held=_count(entry, "held"),
            last_request=None if entry.get("idle") is None else _before(now, entry, "idle", 0.0),
        )
        for entry in _entries(value, "reports", {"gateway", "age", "inFlight", "held", "idle"})
    )
    _check_unique("reports", [report.gateway for report in reports])
    return Step(
        now,
        Observations(
            replicas=_count(value, "replicas"),
            workers=_workers(value, now),
            gateways=_gateways(value, now, reports),
            reports=reports,
            queue=_queue(value.get("queue"), now),
        ),
    )


def write_line(step: Step) -> str:
    """Return a step as a line, without its end. `read_line` makes the same step of it."""
    now, seen = step.now, step.observations
    value: dict[str, object] = {"at": now.isoformat(), "replicas": seen.replicas}
    if seen.workers is not None:
        value["workers"] = [
            {
                "name": worker.name,
                "state": worker.state.value,
                "age": _seconds(now - worker.since),
                **({} if worker.in_flight is None else {"inFlight": worker.in_flight}),
                **({"adapters": sorted(worker.adapters)} if worker.adapters else {}),
            }
            for worker in seen.workers
        ]
    value["gateways"] = (
        None
        if seen.gateways is None
        else [{"name": gateway.name, "age": _seconds(now - gateway.since)} for gateway in seen.gateways]
    )
    value["reports"] = [
        {
            "gateway": report.gateway,
            "age": _seconds(now - report.at),
            "inFlight": report.in_flight,
            "held": report.held,
            **({} if report.last_request is None else {"idle": _seconds(now - report.last_request)}),
        }
        for report in seen.reports
    ]
    if seen.queue is not None:
        queue = seen.queue
        value["queue"] = {"age": _seconds(now - queue.at), "waiting": queue.waiting, "running": queue.running}
    return json.dumps(value, separators=(",", ":"))


def _workers(value: Mapping[str, object], now: datetime) -> tuple[Worker, ...] | None:
    if value.get("workers") is None:
        return None
    if isinstance(value["workers"], int):
        count = _count(value, "workers")
        if count > MOST_ENTRIES:
            raise TraceError(f"`workers` has at most {MOST_ENTRIES} entries")
        long_ago = now - timedelta(days=1)
        return tuple(Worker(f"worker-{index}", WorkerState.READY, long_ago) for index in range(count))
    workers = tuple(
        Worker(
            name=_name(entry, "name"),
            state=_state(entry),
            since=_before(now, entry, "age", 0.0),
            in_flight=None if entry.get("inFlight") is None else _count(entry, "inFlight"),
            adapters=_adapters(entry),
        )
        for entry in _entries(value, "workers", {"name", "state", "age", "inFlight", "adapters"})
    )
    _check_unique("workers", [worker.name for worker in workers])
    return workers


def _gateways(
    value: Mapping[str, object], now: datetime, reports: tuple[DemandReport, ...]
) -> tuple[Gateway, ...] | None:
    if "gateways" not in value:
        return tuple(Gateway(report.gateway, now - timedelta(days=1)) for report in reports)
    if value["gateways"] is None:
        return None
    gateways = tuple(
        Gateway(_name(entry, "name"), _before(now, entry, "age", 86400.0))
        for entry in _entries(value, "gateways", {"name", "age"})
    )
    _check_unique("gateways", [gateway.name for gateway in gateways])
    return gateways


def _queue(value: object, now: datetime) -> QueueReport | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise TraceError("`queue` must be an object")
    _check_fields(value, {"age", "waiting", "running"})
    return QueueReport(_before(now, value, "age", 0.0), _count(value, "waiting"), _count(value, "running"))


def _entries(value: Mapping[str, object], name: str, fields: set[str]) -> list[dict[str, object]]:
    entries = value.get(name, [])
    if not isinstance(entries, list) or len(entries) > MOST_ENTRIES:
        raise TraceError(f"`{name}` must be a list of at most {MOST_ENTRIES} entries")
    for entry in entries:
        if not isinstance(entry, dict):
            raise TraceError(f"each entry of `{name}` must be an object")
        _check_fields(entry, fields)
    return entries


def _check_fields(value: Mapping[str, object], fields: set[str]) -> None:
    unknown = sorted(set(value) - fields)
    if unknown:
        raise TraceError(f"unknown field {unknown[0][:50]!r}; there may be {', '.join(sorted(fields))}")


def _check_unique(name: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise TraceError(f"two entries of `{name}` have the same name")


def _adapters(entry: Mapping[str, object]) -> frozenset[str]:
    names = entry.get("adapters", [])
    if not isinstance(names, list) or len(names) > MOST_ENTRIES or not all(isinstance(name, str) for name in names):
        raise TraceError(f"`adapters` must be a list of at most {MOST_ENTRIES} names")
    return frozenset(names)


def _state(entry: Mapping[str, object]) -> WorkerState:
    try:
        return WorkerState(str(entry.get("state")))
    except ValueError as error:
        raise TraceError(f"`state` must be one of {', '.join(WorkerState)}") from error


def _name(entry: Mapping[str, object], field: str) -> str:
    name = entry.get(field)
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise TraceError(f"`{field}` must be a text of 1 to {LONGEST_NAME} characters")
    return name


def _count(entry: Mapping[str, object], field: str) -> int:
    count = entry.get(field, 0)
    if type(count) is not int or not 0 <= count <= LARGEST_COUNT:
        raise TraceError(f"`{field}` must be an integer from 0 to {LARGEST_COUNT}")
    return count


def _before(now: datetime, entry: Mapping[str, object], field: str, default: float) -> datetime:
    age = entry.get(field, default)
    if isinstance(age, bool) or not isinstance(age, int | float) or not abs(age) <= LONGEST_AGE:
        raise TraceError(f"`{field}` must be a number of seconds, at most {LONGEST_AGE}")
    return now - timedelta(seconds=age)


def _moment(value: object) -> datetime:
    try:
        if isinstance(value, str) and len(value) <= 40:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise ValueError(value)
            moment = moment.astimezone(UTC)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value, UTC)
        else:
            raise ValueError(value)
    except (ValueError, OverflowError, OSError) as error:
        raise TraceError("`at` must be a time of RFC 3339, or a number of seconds of Unix time") from error
    # So far from the ends of the calendar that no age leads beyond them.
    if not 1970 <= moment.year <= 2500:
        raise TraceError("`at` must be from 1970 to 2500")
    return moment


def _seconds(duration: timedelta) -> float:
    seconds = duration.total_seconds()
    return int(seconds) if seconds.is_integer() else seconds

"""What the user of a ModelEndpoint says about its workers: `ScalingSpec`, read from a spec by `read_spec`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

WINDOW = timedelta(minutes=5)
"""How long a peak of demand holds the scale."""
ASYNC_WINDOW = timedelta(minutes=10)
"""The same for queued work, which comes in batches. Model Engine's cooldown of 600 s."""
MOST_WORKERS = 1000
MOST_CONCURRENCY = 100_000
LONGEST = timedelta(days=7)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?:\d{1,7}(?:ms|s|m|h)){1,4}", re.ASCII)
_PART = re.compile(r"(\d+)(ms|s|m|h)", re.ASCII)


class SpecError(ValueError):
    """A spec that cannot be scaled by. The message names the field and what it must be."""


@dataclass(frozen=True, slots=True)
class ScalingSpec:
    """The limits within which a ModelEndpoint is scaled."""

    min_workers: int = 0
    max_workers: int = 1
    concurrency: int = 32
    """Requests that one worker serves at once."""
    scale_to_zero_after: timedelta = timedelta(minutes=10)
    """How long no request must have come before the last worker goes."""
    loading_grace: timedelta = timedelta(minutes=30)
    """How long a worker may take to be ready before it counts as one that does not start."""
    window: timedelta = WINDOW
    """How long a peak of demand holds the scale."""
    queued: bool = False
    """Whether it takes queued tasks: without a number of them, demand is unknown."""

    def __post_init__(self) -> None:
        """Check the limits.

        Raises:
            SpecError: they contradict each other, or are out of bounds.

        """
        if not 0 <= self.min_workers <= self.max_workers <= MOST_WORKERS:
            raise SpecError(
                f"workers.min is {self.min_workers} and workers.max is {self.max_workers}: "
                f"they must be 0 <= min <= max <= {MOST_WORKERS}"
            )
        if not 1 <= self.concurrency <= MOST_CONCURRENCY:
            raise SpecError(f"workers.concurrency is {self.concurrency}: it must be from 1 to {MOST_CONCURRENCY}")
        for name, value in (
            ("workers.scaleToZeroAfter", self.scale_to_zero_after),
            ("workers.loadingGrace", self.loading_grace),
        ):
            if not timedelta(0) <= value <= LONGEST:
                raise SpecError(f"{name} must be from 0s to {LONGEST.days * 24}h")
        if not timedelta(seconds=1) <= self.window <= LONGEST:
            raise SpecError(f"the window must be from 1s to {LONGEST.days * 24}h")


def read_spec(value: object) -> ScalingSpec:
    """Read a ModelEndpoint, its spec, or the two fields `workers` and `kind` alone. What is missing has its default.

    Raises:
        SpecError: it is something else, or a field is not as it must be.

    """
    if not isinstance(value, Mapping):
        raise SpecError("a spec is an object with the field `workers`")
    spec = value.get("spec", value)
    workers = spec.get("workers", {}) if isinstance(spec, Mapping) else None
    if not isinstance(workers, Mapping):
        raise SpecError("`workers` must be an object")
    # A whole ModelEndpoint has a `kind` of its own beside the one in its spec.
    kind = spec.get("kind", "sync")
    if kind not in ("sync", "async"):
        raise SpecError("`kind` must be sync or async")
    # What was scaled to before is an observation and no limit.
    unknown = sorted(str(name)[:50] for name in set(workers) - {*_FIELDS, "replicas"})
    if unknown:
        raise SpecError(f"`workers` has unknown fields: {', '.join(unknown[:5])}. It may have {', '.join(_FIELDS)}")
    default = ScalingSpec()
    least = _integer(workers, "min", default.min_workers)
    return ScalingSpec(
        min_workers=least,
        max_workers=_integer(workers, "max", max(least, default.max_workers)),
        concurrency=_integer(workers, "concurrency", default.concurrency),
        scale_to_zero_after=_duration(workers, "scaleToZeroAfter", default.scale_to_zero_after),
        loading_grace=_duration(workers, "loadingGrace", default.loading_grace),
        window=ASYNC_WINDOW if kind == "async" else WINDOW,
        queued=kind == "async",
    )


_FIELDS = ("min", "max", "concurrency", "scaleToZeroAfter", "loadingGrace")


def _integer(workers: Mapping[Any, Any], name: str, default: int) -> int:
    value = workers.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise SpecError(f"workers.{name} must be an integer")
    return value


def _duration(workers: Mapping[Any, Any], name: str, default: timedelta) -> timedelta:
    value = workers.get(name)
    if value is None:
        return default
    if not isinstance(value, str) or not _DURATION.fullmatch(value):
        raise SpecError(f"workers.{name} must be a duration such as 90s, 10m or 1h30m")
    return timedelta(seconds=sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(value)))

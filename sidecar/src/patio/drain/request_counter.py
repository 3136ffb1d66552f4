"""How many requests the engine has, read from the engine itself.

From `/v1/loads` where there is one (SGLang 0.5: its scheduler answers at once, while its gauges may be some seconds
old), else from `/get_load` (older), else from the engine's metrics. What an engine does not have is asked again with
each count: an odd answer, as from a rate limit, must not blind the rest of a drain. `drain` asks; what
the numbers mean is `plan`'s.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import httpx
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from patio.drain.planner import CountOutcome, RequestCount
from patio.engine.address import read_address
from patio.exchange import Answer, ExchangeError, exchange
from patio.network import Cause

COUNT_SECONDS = 2.0
LARGEST = 16 * 2**20
RETRYABLE_ANSWERS = 4
"""Counts in a row with a temporary error (429, 5xx), after which the next path is asked in the same count."""
_LOADS = "/v1/loads"
_LOAD = "/get_load"
_MAY_PASS = frozenset({408, 425, 429})


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Rank(_Read):
    num_running_reqs: int = 0
    num_waiting_reqs: int = 0
    disaggregation: dict[str, object] = {}


class _Loads(_Read):
    loads: tuple[_Rank, ...]


class _OldRank(_Read):
    num_reqs: int
    num_waiting_reqs: int = 0


_OLD: TypeAdapter[tuple[_OldRank, ...]] = TypeAdapter(tuple[_OldRank, ...])


@dataclass(frozen=True, slots=True)
class CountSources:
    """Where an engine reports its numbers."""

    endpoint: str
    metrics_path: str
    running: tuple[str, ...]
    """Families of the engine's metrics, the first present counts."""
    waiting: tuple[str, ...]
    loads: bool
    """Whether `/v1/loads` and `/get_load` are worth asking: SGLang."""
    key: str | None = None


class RequestCounter:
    """Counts the requests of one engine."""

    def __init__(self, sources: CountSources, http: httpx.AsyncClient) -> None:
        self._sources = sources
        self._http = http
        self._base_url = read_address(sources.endpoint).base_url
        self._paths = (*((_LOADS, _LOAD) if sources.loads else ()), sources.metrics_path)
        self._last_path: str | None = None
        """The path that last had numbers; asked first."""
        self._retryable_answers: dict[str, int] = {}
        """Answers in a row, by path, that may be others next time."""

    async def count(self) -> RequestCount:
        """Count the engine's requests, once. An engine that is down is an answer."""
        retryable = False
        for path in sorted(self._paths, key=lambda path: path != self._last_path):
            try:
                answer = await self._get(path)
            except ExchangeError as error:
                return RequestCount(CountOutcome.GONE if error.cause is Cause.REFUSED else CountOutcome.NO_ANSWER)
            count = self._read(path, answer.content) if answer.is_success and answer.whole else None
            if count is not None:
                self._last_path = path
                self._retryable_answers.pop(path, None)
                return count
            if answer.status in _MAY_PASS or (answer.status >= 500 and answer.status != 501):
                retryable = True
                self._retryable_answers[path] = self._retryable_answers.get(path, 0) + 1
                if self._retryable_answers[path] < RETRYABLE_ANSWERS:
                    return RequestCount(CountOutcome.NO_ANSWER)
        return RequestCount(CountOutcome.NO_ANSWER if retryable else CountOutcome.BLIND)

    async def _get(self, path: str) -> Answer:
        key = self._sources.key
        return await exchange(
            self._http,
            "GET",
            self._base_url + path,
            where=f"the engine at {self._sources.endpoint}",
            path=path,
            seconds=COUNT_SECONDS,
            largest=LARGEST,
            headers={} if key is None else {"authorization": f"Bearer {key}"},
            query={"include": "core,disagg"} if path == _LOADS else None,
        )

    def _read(self, path: str, content: bytes) -> RequestCount | None:
        try:
            if path == _LOADS:
                ranks = _Loads.model_validate_json(content).loads
                running = sum(rank.num_running_reqs for rank in ranks)
                queued = sum(rank.num_waiting_reqs + _queued(rank.disaggregation) for rank in ranks)
                return RequestCount(CountOutcome.COUNTED, running, queued)
            if path == _LOAD:
                old = _OLD.validate_json(content)
                waiting = sum(rank.num_waiting_reqs for rank in old)
                return RequestCount(CountOutcome.COUNTED, max(0, sum(rank.num_reqs for rank in old) - waiting), waiting)
        except ValidationError:
            return None
        running_total = total(content, self._sources.running)
        waiting_total = total(content, self._sources.waiting)
        if running_total is None:
            return None
        return RequestCount(CountOutcome.COUNTED, running_total, waiting_total or 0)


def total(text: bytes, families: Iterable[str]) -> int | None:
    """Return the sum over all series of the first family present in a metrics text; None when there is none.

    NaN and negative values, which SGLang has shown, count as nothing.
    """
    for family in families:
        pattern = re.compile(rb"^" + re.escape(family.encode()) + rb"[ \t]*(?:\{.*\})?[ \t]+(\S+)", re.MULTILINE)
        values = [_number(match) for match in pattern.findall(text)]
        if values:
            return math.ceil(sum(values))
    return None


def _number(text: bytes) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def _queued(disaggregation: Mapping[str, object]) -> int:
    """Return the requests in the queues that only prefill and decode workers have."""
    return sum(
        value
        for name, value in disaggregation.items()
        if name.endswith("_queue_reqs") and isinstance(value, int) and value > 0
    )

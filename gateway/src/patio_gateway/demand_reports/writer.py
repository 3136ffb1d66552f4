"""Writes the DemandReport of this replica: as a whole, by server-side apply, owned by the replica's pod.

`report` says what and when. A write that fails, for whatever reason, is tried again after a pause that grows; requests
and snapshots never wait for it. When the replica ends, it reports once more, without demand; the report goes with the
pod.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

from patio_api.endpoint_labels import GATEWAY_MANAGER
from patio_gateway.demand_reports.report import State, Traffic, Waiting, due_in, observe, report_of
from patio_kube.client import ApiError, KubeClient, NotFoundError, Object
from patio_kube.resources import DEMAND_REPORT, POD
from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 1.0
"""Between two looks at what Envoy counts."""
LEAST_SECONDS: Final = 0.1
"""Between two reports, however fast the demand changes."""
WRITE_SECONDS: Final = 5.0
"""That the API server has to answer a report."""
FIRST_PAUSE: Final = 0.5
LONGEST_PAUSE: Final = 30.0
"""Seconds until the next attempt after one that failed."""


class Demands(Protocol):
    """Where the demand is known."""

    async def changed(self, seconds: float) -> None:
        """Wait until more or less is held than at the last call, or for some seconds."""

    def waiting(self) -> Mapping[str, Waiting]:
        """Return what the front knows, by ModelEndpoint."""

    async def traffic(self) -> Traffic | None:
        """Return what Envoy counts; None: it does not answer."""

    def endpoints(self) -> Iterable[str]:
        """Return the ModelEndpoints that exist."""


@dataclass(frozen=True)
class Pod:
    """The pod of this replica."""

    namespace: str
    name: str


class DemandWriter:
    """Reports the demand."""

    def __init__(self, client: KubeClient, pod: Pod) -> None:
        self._client = client
        self._pod = pod
        self._uid = ""
        self._rng = random.Random()  # noqa: S311 - jitter only
        self._state: State = {}
        self._traffic: Traffic | None = None
        self._looked = self._written = float("-inf")
        self._reported: State | None = None
        self._failures = 0
        self._not_before = float("-inf")
        self._last_error = ""

    async def run(self, demands: Demands) -> None:
        """Report until cancelled."""
        while True:
            seconds = LOOK_SECONDS
            try:
                seconds = await self._step(demands)
            except Exception:  # the outermost place: without reports nothing is scaled any more
                log.exception("demand_report_failed")
            await asyncio.sleep(LEAST_SECONDS)
            await demands.changed(seconds)

    async def finish(self, demands: Demands) -> None:
        """Report for the last time: what is in flight has ended with Envoy."""
        nothing = Traffic({}, {} if self._traffic is None else self._traffic.ended)
        self._state = observe(self._state, self._traffic, nothing, {}, demands.endpoints(), time.time())
        await self._write(time.monotonic())

    async def _step(self, demands: Demands) -> float:
        """Look, and report if that is due; return after how many seconds the next look is."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            await self._look(demands)
        else:
            self._observe(demands, demands.waiting(), self._traffic)
        wait = max(due_in(self._reported, self._state, now - self._written), self._not_before - now)
        if wait <= 0:
            if now - self._looked > LEAST_SECONDS:
                # What was held a moment ago may be in flight now: both are to be of one moment.
                await self._look(demands)
            await self._write(now)
            wait = LOOK_SECONDS
        return min(wait, LOOK_SECONDS)

    async def _look(self, demands: Demands) -> None:
        # What is held is read first: a request that goes on meanwhile counts twice rather than not at all.
        waiting = demands.waiting()
        traffic = await demands.traffic()
        self._observe(demands, waiting, traffic)
        self._traffic = traffic or self._traffic
        self._looked = time.monotonic()

    def _observe(self, demands: Demands, waiting: Mapping[str, Waiting], traffic: Traffic | None) -> None:
        self._state = observe(self._state, self._traffic, traffic, waiting, demands.endpoints(), time.time())

    async def _write(self, now: float) -> None:
        state = self._state
        report = report_of(self._pod.name, state, time.time(), self._client.now())
        metadata: Object = {"name": self._pod.name, "namespace": self._pod.namespace}
        body = {
            "apiVersion": DEMAND_REPORT.api_version,
            "kind": DEMAND_REPORT.kind,
            "metadata": metadata,
            "spec": report.to_api(),
        }
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                owner = await self._owner()
                if owner is not None:
                    metadata["ownerReferences"] = [owner]
                await self._client.apply(DEMAND_REPORT, body)
        except ApiError as error:
            self._failed(error.message, now)
            return
        except TimeoutError:
            self._failed(f"the API server did not answer within {WRITE_SECONDS:.0f} s", now)
            return
        if self._last_error:
            log.info("demand_report_written_again")
        self._failures, self._last_error = 0, ""
        self._reported, self._written = state, now

    def _failed(self, error: str, now: float) -> None:
        self._failures += 1
        pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, self._failures), self._rng.random())
        self._not_before = now + pause
        level = logging.DEBUG if error == self._last_error else logging.WARNING
        log.log(level, "demand_report_not_written retry_seconds=%.1f error=%s", pause, json.dumps(error))
        self._last_error = error

    async def _owner(self) -> Object | None:
        """Return the owner reference by which the report goes with the pod; None: the pod cannot be read."""
        if not self._uid:
            try:
                self._uid = (await self._client.get(POD, self._pod.name, self._pod.namespace))["metadata"]["uid"]
            except NotFoundError:
                return None
            except ApiError as error:
                if error.status != 403:
                    raise
                return None
        return {"apiVersion": POD.api_version, "kind": POD.kind, "name": self._pod.name, "uid": self._uid}


@asynccontextmanager
async def reporting(pod: Pod) -> AsyncIterator[DemandWriter]:
    """Return what reports for a pod.

    Raises:
        ApiError: it is not known where the API server is.

    """
    client = await KubeClient.connect(GATEWAY_MANAGER, connections=2)
    try:
        yield DemandWriter(client, pod)
    finally:
        await client.close()

"""The report of a replica at an API server in memory: what is written when, and what a failure leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from kubernetes.aio import client

from patio_api.endpoint_labels import GATEWAY_MANAGER
from patio_gateway.demand_reports import writer
from patio_gateway.demand_reports.report import Traffic, Waiting
from patio_gateway.demand_reports.writer import DemandWriter, Pod
from patio_kube.client import KubeClient
from patio_testing.model_objects import PATIO, Object, pods_path, worker_pod
from patio_testing.operator.memory_api import MemoryApi, serving
from patio_testing.operator.waiting import until

POD = Pod("patio-system", "gateway-0")
REPORT = f"{PATIO}/namespaces/patio-system/demandreports/gateway-0"


@dataclass
class Demands:
    """A demand that a test sets."""

    held: dict[str, int] = field(default_factory=dict)
    in_flight: dict[str, int] = field(default_factory=dict)
    known: tuple[str, ...] = ("a/m", "a/n")
    change: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, endpoint: str, count: int) -> None:
        self.held[endpoint] = count
        self.change.set()

    async def changed(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.change.wait()
        except TimeoutError:
            return
        self.change.clear()

    def waiting(self) -> Mapping[str, Waiting]:
        return {endpoint: Waiting(count, time.time()) for endpoint, count in self.held.items()}

    async def traffic(self) -> Traffic | None:
        return Traffic(dict(self.in_flight), {})

    def endpoints(self) -> Iterable[str]:
        return self.known


class Reports(MemoryApi):
    """Says what the report is, and when it was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[float, dict[str, tuple[int, int]]]] = []
        self.put(pods_path("patio-system"), worker_pod("gateway-0", namespace="patio-system"))

    def put(self, collection: str, body: Object) -> Object:
        stored = super().put(collection, body)
        if collection.endswith("demandreports"):
            self.written.append((time.monotonic(), demand_in(stored)))
        return stored

    @property
    def now(self) -> dict[str, tuple[int, int]] | None:
        """The demand that the report has, in flight and held; None: there is none."""
        return demand_in(self.objects[REPORT]) if REPORT in self.objects else None


def demand_in(report: Object) -> dict[str, tuple[int, int]]:
    return {each["endpoint"]: (each["inFlight"], each["held"]) for each in report["spec"]["endpoints"]}


@asynccontextmanager
async def reporting(api: MemoryApi, demands: Demands) -> AsyncIterator[DemandWriter]:
    async with serving(api) as address:
        kube = KubeClient(client.ApiClient(client.Configuration(host=address)), GATEWAY_MANAGER)
        found = DemandWriter(kube, POD)
        task = asyncio.create_task(found.run(demands))
        try:
            yield found
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await kube.close()


async def test_report_is_the_pods_and_goes_with_it() -> None:
    api = Reports()
    async with reporting(api, Demands()):
        await until("a report", lambda: api.now == {})
        report = api.objects[REPORT]
        assert report["spec"]["gateway"] == "gateway-0"
        assert report["metadata"]["ownerReferences"] == [
            {"apiVersion": "v1", "kind": "Pod", "name": "gateway-0", "uid": "uid-patio-system-gateway-0"}
        ]


async def test_first_held_request_is_reported_at_once() -> None:
    api, demands = Reports(), Demands()
    async with reporting(api, demands):
        await until("the first report", lambda: api.now == {})
        began = time.monotonic()
        demands.hold("a/m", 1)
        await until("the demand", lambda: api.now == {"a/m": (0, 1)})
        print(f"reported after {api.written[-1][0] - began:.3f} s")
        # The next ones wait for a second, and are one report.
        demands.hold("a/m", 2)
        demands.hold("a/m", 3)
        await until("more", lambda: api.now == {"a/m": (0, 3)})
        (first, _), (second, _) = api.written[-2:]
        assert second - first >= 1.0
        assert len(api.written) == 3


async def test_requests_in_flight_are_reported() -> None:
    api, demands = Reports(), Demands(in_flight={"a/n": 4})
    async with reporting(api, demands):
        await until("the demand", lambda: api.now == {"a/n": (4, 0)})
        demands.in_flight.clear()
        await until("they have ended", lambda: api.now == {"a/n": (0, 0)})
        assert "lastActivity" in api.objects[REPORT]["spec"]["endpoints"][0]


async def test_same_demand_is_reported_over_and_over(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Reports()
    async with reporting(api, Demands()):
        await until("the first report", lambda: api.written)
        before = api.objects[REPORT]["spec"]["reportedAt"]
        await until("another one", lambda: len(api.written) == 2)
        assert api.objects[REPORT]["spec"]["reportedAt"] > before


@pytest.mark.parametrize("status", [403, 404, 409, 500])
async def test_report_that_is_refused_is_tried_again(
    status: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "FIRST_PAUSE", 0.05)
    api, demands = Reports(), Demands(held={"a/m": 1})
    api.refused = {REPORT: status}
    async with reporting(api, demands):
        await until("it was tried twice", lambda: api.requests["PATCH demandreports"] >= 2)
        api.refused = {}
        await until("the report", lambda: api.now == {"a/m": (0, 1)})
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len([each for each in warnings if "demand_report_not_written" in each.getMessage()]) == 1


async def test_pauses_grow_while_reports_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Reports()
    api.refused = {REPORT: 403}
    demands = Demands()
    async with reporting(api, demands):
        began = time.monotonic()
        await until("four tries", lambda: api.requests["PATCH demandreports"] == 4)
        assert time.monotonic() - began >= 0.5 + 1.0 + 2.0


async def test_pod_that_cannot_be_read_owns_nothing() -> None:
    for status in (403, 404):
        api = Reports()
        api.refused = {f"{pods_path('patio-system')}/gateway-0": status}
        async with reporting(api, Demands()):
            await until("a report", lambda api=api: api.now == {})
            assert "ownerReferences" not in api.objects[REPORT]["metadata"]


async def test_last_report_has_no_demand_and_the_last_activity() -> None:
    api, demands = Reports(), Demands(held={"a/m": 1}, in_flight={"a/n": 1})
    async with serving(api) as address:
        kube = KubeClient(client.ApiClient(client.Configuration(host=address)), GATEWAY_MANAGER)
        found = DemandWriter(kube, POD)
        task = asyncio.create_task(found.run(demands))
        await until("the demand", lambda: api.now == {"a/m": (0, 1), "a/n": (1, 0)})
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await found.finish(demands)
        await kube.close()
    assert api.now == {"a/m": (0, 0), "a/n": (0, 0)}
    assert all("lastActivity" in each for each in api.objects[REPORT]["spec"]["endpoints"])


async def test_source_of_the_demand_that_fails_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Demands):
        fails = True

        async def traffic(self) -> Traffic | None:
            if self.fails:
                raise RuntimeError("out of order")
            return await super().traffic()

    api, demands = Reports(), Failing()
    async with reporting(api, demands):
        await until("it failed", lambda: "demand_report_failed" in caplog.text)
        demands.fails = False
        await until("a report", lambda: api.now == {})

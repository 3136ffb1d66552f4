"""Passes over ModelEndpoints on an API server in memory: what they write, and what wakes them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from patio_api.conditions import TIME_FORMAT
from patio_api.demand_report import DemandReport
from patio_api.endpoint_labels import ENDPOINT
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import Scope
from patio_kube.informer import Informer
from patio_kube.resources import DEMAND_REPORT, MODEL_ENDPOINT, POD, PROFILE, ROLE_BASED_GROUP
from patio_operator.modelendpoints import wiring
from patio_operator.modelendpoints.caches import (
    ClaimIndex,
    decode_endpoint,
    decode_endpoint_group,
    decode_endpoint_pod,
)
from patio_operator.modelendpoints.reconciler import Options, Sources
from patio_operator.modelendpoints.wiring import ModelEndpoints
from patio_operator.telemetry.metrics import Metrics
from patio_testing.operator.memory_api import GROUPS, PODS, PROFILES, MemoryApi, connected, profile, serving
from patio_testing.operator.waiting import until

from .builders import IMAGES, NOW

Object = dict[str, Any]
ENDPOINTS = "/apis/patio.dev/v1alpha1/namespaces/team/modelendpoints"
ELSEWHERE = "/apis/patio.dev/v1alpha1/namespaces/other/modelendpoints"
REPORTS = "/apis/patio.dev/v1alpha1/namespaces/patio-system/demandreports"
SERVICES = "/api/v1/namespaces/team/services"


class DatedApi(MemoryApi):
    """Dates what is made, as an API server does: each object a second after the one before."""

    def put(self, collection: str, body: Object) -> Object:
        created = (NOW + timedelta(seconds=self.version)).strftime(TIME_FORMAT)
        return super().put(collection, body | {"metadata": {"creationTimestamp": created} | body["metadata"]})


def body(name: str = "qwen", *, created: str = "2026-11-27T10:00:00Z", **spec: Any) -> Object:
    defaults = {"model": {"uri": "hf://Qwen/Qwen3-8B"}, "workers": {"replicas": 1, "max": 4}}
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "ModelEndpoint",
        "metadata": {"name": name, "creationTimestamp": created},
        "spec": defaults | spec,
    }


@dataclass
class Running:
    """The operator's part that realises endpoints."""

    api: MemoryApi
    feature: ModelEndpoints

    def status(self, path: str = f"{ENDPOINTS}/qwen") -> Object:
        return dict(self.api.objects[path].get("status") or {})

    def reason(self, type_: str = "Ready", path: str = f"{ENDPOINTS}/qwen") -> str:
        conditions = self.status(path).get("conditions") or []
        return next((f"{each['status']} {each['reason']}" for each in conditions if each["type"] == type_), "")

    async def reads(self, wanted: str, type_: str = "Ready", path: str = f"{ENDPOINTS}/qwen") -> None:
        await until(wanted, lambda: self.reason(type_, path) == wanted, lambda: str(self.status(path)))

    def groups(self) -> list[Object]:
        found = [each for path, each in self.api.objects.items() if path.startswith(f"{GROUPS}/")]
        return sorted(found, key=lambda each: int(each["metadata"]["resourceVersion"]))

    def run_pods(self, group: Object, *, ready: bool = True) -> None:
        """Be who realises a group: its pods are there, with a sidecar."""
        for role in group["spec"]["roles"]:
            for index in range(role["replicas"]):
                self.api.put(PODS, pod(group, role, index, ready=ready))


def pod(group: Object, role: Object, index: int, *, ready: bool) -> Object:
    name = group["metadata"]["name"]
    labels = role["standalonePattern"]["template"]["metadata"]["labels"]
    return {
        "metadata": {
            "name": f"{name}-{role['name']}-{index}",
            "creationTimestamp": "2026-11-27T10:00:00Z",
            "labels": {
                **labels,
                "rbg.workloads.x-k8s.io/group-name": name,
                "rbg.workloads.x-k8s.io/role-name": role["name"],
                "patio.dev/injected": "true",
            },
        },
        "spec": {"nodeName": "node-a"},
        "status": {
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [{"name": "engine", "state": {"running": {}}}],
        },
    }


@asynccontextmanager
async def operator(api: MemoryApi, *, realised: bool = True) -> AsyncIterator[Running]:
    async with serving(api) as address, connected(address) as client, connected(address) as watching:
        of_endpoints = Scope(labels=ENDPOINT)
        groups = Informer(watching, ROLE_BASED_GROUP, decode_endpoint_group, Scope(labels=ENDPOINT, metadata_only=True))
        sources = Sources(
            endpoints=Informer(watching, MODEL_ENDPOINT, decode_endpoint),
            pods=Informer(watching, POD, decode_endpoint_pod, of_endpoints),
            profiles=Informer(watching, PROFILE, ClusterEngineRuntimeProfile.model_validate),
            reports=Informer(watching, DEMAND_REPORT, DemandReport.model_validate),
            claims=ClaimIndex(),
            adapters_of=lambda namespace, labels: ("sql",) if (namespace, labels) == ("team", {"for": "qwen"}) else (),
            groups_are_realised=lambda: realised,
        )
        feature = wiring.wire(client, sources, groups, Options(IMAGES), Metrics())
        informers = (sources.endpoints, sources.pods, sources.profiles, sources.reports, groups)
        tasks = [asyncio.create_task(work) for work in (*(each.run() for each in informers), feature.act())]
        try:
            yield Running(api, feature)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def with_profile() -> DatedApi:
    api = DatedApi()
    api.put(PROFILES, profile("patio") | {"spec": {"initContainers": [{"name": "patio"}]}})
    return api


async def test_endpoint_becomes_a_group_that_answers() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        (group,) = running.groups()
        running.run_pods(group)
        await running.reads("True Serving")
        assert running.status()["workers"]["ready"] == 1
        assert "progress" not in running.status()
        assert f"{SERVICES}/qwen" in api.objects


async def test_pass_over_what_is_as_it_should_be_writes_nothing() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        running.run_pods(running.groups()[0])
        await running.reads("True Serving")
        passes = api.requests["GET modelendpoints"]
        running.feature.queue.add(("team", "qwen"))
        await until("another pass", lambda: api.requests["GET modelendpoints"] > passes)
        writes = api.writes
        running.feature.queue.add(("team", "qwen"))
        await until("one more", lambda: api.requests["GET modelendpoints"] > passes + 1)
        assert api.writes == writes


async def test_edit_rolls_through_both_groups() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        first = running.groups()[0]["metadata"]["name"]
        running.run_pods(running.groups()[0])
        await running.reads("True Serving")
        edited = body(model={"uri": "hf://Qwen/Qwen3-8B@v2"})
        api.put(ENDPOINTS, edited | {"metadata": api.objects[f"{ENDPOINTS}/qwen"]["metadata"]})
        await running.reads("False Rolling")
        (new,) = [group for group in running.groups() if group["metadata"]["name"] != first]
        assert api.objects[f"{GROUPS}/{first}"]["spec"]["roles"][0]["replicas"] == 1
        running.run_pods(new)
        await until("old group resized", lambda: _replicas(api, first) == 0)
        api.remove(f"{PODS}/{first}-server-0")
        await until("old group deleted", lambda: f"{GROUPS}/{first}" not in api.objects)
        await running.reads("False Complete", "Progressing")
        assert running.reason() == "True Serving"


def _replicas(api: MemoryApi, name: str) -> int | None:
    group = api.objects.get(f"{GROUPS}/{name}")
    return None if group is None else int(group["spec"]["roles"][0]["replicas"])


async def test_number_that_scaling_writes_reaches_the_group() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body(workers={"max": 4}))
    async with operator(api) as running:
        await running.reads("False ScaledToZero")
        assert api.objects[f"{ENDPOINTS}/qwen"]["spec"]["workers"]["replicas"] == 0
        stored = api.objects[f"{ENDPOINTS}/qwen"]
        api.put(ENDPOINTS, stored | {"spec": stored["spec"] | {"workers": {"max": 4, "replicas": 3}}})
        name = running.groups()[0]["metadata"]["name"]
        await until("three workers", lambda: _replicas(api, name) == 3)


async def test_service_that_is_deleted_is_made_again() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        api.remove(f"{SERVICES}/qwen")
        running.run_pods(running.groups()[0])
        await until("the Service", lambda: f"{SERVICES}/qwen" in api.objects)


async def test_profile_that_comes_later_lets_the_endpoint_begin() -> None:
    api = DatedApi()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False ProfileNotFound")
        assert running.groups() == []
        api.put(PROFILES, profile("patio"))
        await running.reads("False Loading")


async def test_older_endpoint_that_goes_leaves_its_name() -> None:
    api = with_profile()
    api.put(ELSEWHERE, body(created="2026-11-01T10:00:00Z"))
    async with operator(api) as running:
        await running.reads("False Loading", path=f"{ELSEWHERE}/qwen")
        api.put(ENDPOINTS, body())
        await running.reads("False NameTaken")
        api.remove(f"{ELSEWHERE}/qwen")
        await running.reads("False Loading")


async def test_report_of_a_gateway_reaches_the_status() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        entry = {"endpoint": "team/qwen", "held": 3, "lastActivity": "2026-11-27T11:59:00Z"}
        report = {"gateway": "gateway-0", "reportedAt": "2999-01-01T00:00:00Z", "endpoints": [entry]}
        api.put(REPORTS, {"metadata": {"name": "gateway-0"}, "spec": report})
        api.put(REPORTS, {"metadata": {"name": "gateway-1"}, "spec": report | {"reportedAt": "2026-11-27T11:59:00Z"}})
        await until("activity", lambda: "lastActivity" in running.status(), lambda: str(running.status()))
        assert running.status()["queued"] == 0, "neither report is fresh"


async def test_object_that_cannot_be_read_is_told_why() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body(queue={"timeout": "soon"}))
    async with operator(api) as running:
        await running.reads("False InvalidSpec")
        (ready,) = [each for each in running.status()["conditions"] if each["type"] == "Ready"]
        assert "spec.queue.timeout" in ready["message"]


async def test_groups_that_nobody_realises_are_not_made() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api, realised=False) as running:
        await running.reads("False GroupsOff")
        assert running.groups() == []


async def test_adapters_that_are_selected_are_names_of_models() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body(adapters={"selector": {"matchLabels": {"for": "qwen"}}}))
    async with operator(api) as running:
        await running.reads("False Loading")
        assert running.status()["models"] == ["qwen", "sql"]


async def test_endpoint_that_is_gone_is_forgotten() -> None:
    api = with_profile()
    api.put(ENDPOINTS, body())
    async with operator(api) as running:
        await running.reads("False Loading")
        api.remove(f"{ENDPOINTS}/qwen")
        await until("forgotten", lambda: len(running.feature.reconciler) == 0)

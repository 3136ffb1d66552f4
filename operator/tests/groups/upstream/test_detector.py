"""Where upstream's controller is looked for: nowhere that a user of a namespace can put anything."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from patio_operator.groups.upstream.detector import UpstreamDetector
from patio_testing.operator.memory_api import MemoryApi, connected, serving

Object = dict[str, Any]

POD = {"metadata": {"name": "nosy", "labels": {"control-plane": "rbgs-controller"}}, "status": {"phase": "Pending"}}
DEPLOYMENT = {"metadata": {"name": "rbgs-controller-manager"}, "spec": {"replicas": 1}}
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def lease() -> Object:
    renewed = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"metadata": {"name": "rbg-controller"}, "spec": {"holderIdentity": "one", "renewTime": renewed}}


def crd(namespace: str, service: str) -> Object:
    client = {"service": {"namespace": namespace, "name": service, "path": "/convert"}}
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": client}}
    return {"metadata": {"name": "rolebasedgroups.workloads.x-k8s.io"}, "spec": {"conversion": conversion}}


def put_signs(api: MemoryApi, namespace: str) -> None:
    api.put(f"/api/v1/namespaces/{namespace}/pods", POD)
    api.put(f"/apis/apps/v1/namespaces/{namespace}/deployments", DEPLOYMENT)
    api.put(f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases", lease())


@asynccontextmanager
async def looking(api: MemoryApi) -> AsyncIterator[UpstreamDetector]:
    async with serving(api) as address, connected(address) as cluster:
        yield UpstreamDetector(cluster, "auto", ("rbgs-system",), "patio-webhook")


async def test_signs_in_a_namespace_of_a_user_are_none() -> None:
    api = MemoryApi()
    put_signs(api, "team-b")
    api.put(CRDS, crd("patio-system", "patio-webhook"))
    async with looking(api) as detector:
        assert await detector.check() is None
        assert not detector.observing


@pytest.mark.parametrize(
    ("collection", "body"),
    [
        ("/api/v1/namespaces/rbgs-system/pods", POD),
        ("/apis/apps/v1/namespaces/rbgs-system/deployments", DEPLOYMENT),
        ("/apis/coordination.k8s.io/v1/namespaces/rbgs-system/leases", None),
        (WEBHOOKS, {"metadata": {"name": "rbgs-validating-webhook-configuration"}}),
    ],
)
async def test_signs_where_the_chart_says_count(collection: str, body: Object | None) -> None:
    api = MemoryApi()
    api.put(collection, body or lease())  # which is fresh only for a minute
    async with looking(api) as detector:
        assert await detector.check() is None
        assert detector.observing


async def test_who_converts_groups_is_looked_for_at_home() -> None:
    api = MemoryApi()
    put_signs(api, "elsewhere")
    api.put(CRDS, crd("elsewhere", "rbgs-webhook-service"))
    async with looking(api) as detector:
        assert await detector.check() is None
        assert detector.observing


async def test_crd_without_its_controller_is_no_sign() -> None:
    api = MemoryApi()
    api.put(CRDS, crd("elsewhere", "rbgs-webhook-service"))
    async with looking(api) as detector:
        assert await detector.check() is None
        assert not detector.observing


async def test_pods_of_the_whole_cluster_are_never_listed() -> None:
    class Api(MemoryApi):
        async def answer(self, request: Any) -> Any:
            paths.append(request.path)
            return await super().answer(request)

    paths: list[str] = []
    async with looking(Api()) as detector:
        await detector.check()
    assert "/api/v1/namespaces/rbgs-system/pods" in paths
    assert "/api/v1/pods" not in paths

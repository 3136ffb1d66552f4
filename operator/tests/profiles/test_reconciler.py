"""Passes over profiles: what a roll of many workloads asks of the API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator import injection
from patio_operator.caches import Caches
from patio_operator.profiles.reconciler import READ_IN_A_PASS, ProfileReconciler
from patio_operator.telemetry.object_gauges import ObjectState
from patio_testing.operator.memory_api import PODS, PROFILES, MemoryApi, connected, profile, serving
from patio_testing.operator.waiting import until

Object = dict[str, Any]

DEPLOYMENTS = "/apis/apps/v1/namespaces/team/deployments"
OLD = "0ld"


def deployment(name: str, *, up: bool = True) -> Object:
    status = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "availableReplicas": int(up)}
    return {"metadata": {"name": name}, "spec": {"replicas": 1, "template": {"metadata": {}}}, "status": status}


def pod_of(name: str, revision: str = OLD) -> Object:
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": f"{name}-6f7", "controller": True}
    metadata = {
        "name": f"{name}-6f7-x",
        "labels": {"patio.dev/injected": "true", "pod-template-hash": "6f7"},
        "annotations": {"patio.dev/injected": json.dumps({"patio": revision})},
        "ownerReferences": [owner],
    }
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Running"}}


def a_profile() -> Object:
    return profile("patio") | {"apiVersion": "v1", "spec": {"updateStrategy": "RollingUpdate"}}


@asynccontextmanager
async def operator(api: MemoryApi) -> AsyncIterator[tuple[ProfileReconciler, list[float]]]:
    now = [1000.0]
    async with serving(api) as address, connected(address) as cluster, connected(address) as watching:
        known = Caches(watching)
        tasks = [asyncio.create_task(watch) for watch in known.watches()]
        await until("the pods are known", lambda: known.complete)
        yield ProfileReconciler(cluster, known.pods, "patio-system", lambda: now[0], lambda: False), now
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def rolled(api: MemoryApi) -> list[str]:
    return [
        path.rsplit("/", 1)[1]
        for path, body in sorted(api.objects.items())
        if path.startswith(DEPLOYMENTS) and "annotations" in body["spec"]["template"]["metadata"]
    ]


def fleet(number: int) -> MemoryApi:
    api = MemoryApi()
    api.put(PROFILES, a_profile())
    for index in range(number):
        api.put(DEPLOYMENTS, deployment(f"d{index:03}"))
        api.put(PODS, pod_of(f"d{index:03}"))
    return api


async def passes(reconciler: ProfileReconciler, now: list[float], api: MemoryApi, number: int) -> list[int]:
    """Make passes; return how many Deployments each of them read."""
    read: list[int] = []
    for _ in range(number):
        now[0] += 5
        api.requests.clear()
        await reconciler.reconcile(("patio",))
        read.append(api.requests["GET deployments"])
        assert not api.requests["GET pods"], "the watches know them"
    return read


async def test_pass_reads_only_some_of_many_workloads() -> None:
    api = fleet(300)
    async with operator(api) as (reconciler, now):
        read = await passes(reconciler, now, api, 30)
        assert max(read) <= READ_IN_A_PASS + 2
        assert rolled(api) == ["d000"], "one at a time, and it does not become ready: its status is as it was"
        assert max(await passes(reconciler, now, api, 15)) <= READ_IN_A_PASS + 2
        status = api.objects[f"{PROFILES}/patio"]["status"]
        assert (status["behindPods"], len(status["rolling"])) == (300, 1)
        message = next(condition["message"] for condition in status["conditions"] if condition["type"] == "RolledOut")
        assert "299 more to roll" in message


async def test_many_workloads_are_all_rolled_in_the_end() -> None:
    api = fleet(60)
    revision = injection.revision(ClusterEngineRuntimeProfile.model_validate(a_profile()))
    async with operator(api) as (reconciler, now):
        done = 0
        for _ in range(400):
            await passes(reconciler, now, api, 1)
            for name in rolled(api)[done:]:
                done += 1
                api.put(DEPLOYMENTS, api.objects[f"{DEPLOYMENTS}/{name}"] | {"status": up(api, name)})
                api.put(PODS, pod_of(name, revision))
                path = f"{PODS}/{name}-6f7-x"
                await until("known", lambda path=path: knows(reconciler, api, path))  # type: ignore[misc]
            if done == 60:
                break
        assert len(rolled(api)) == 60


def up(api: MemoryApi, name: str) -> Object:
    generation = api.objects[f"{DEPLOYMENTS}/{name}"]["metadata"]["generation"]
    return deployment(name)["status"] | {"observedGeneration": generation}


def knows(reconciler: ProfileReconciler, api: MemoryApi, path: str) -> bool:
    known = reconciler._pods.get(path.rsplit("/", 1)[1], "team")
    wanted = json.loads(api.objects[path]["metadata"]["annotations"]["patio.dev/injected"])
    return known is not None and known.use is not None and dict(known.use.revisions) == wanted


async def test_workload_that_may_not_be_read_holds_no_other_up() -> None:
    api = fleet(2)
    api.refused[f"{DEPLOYMENTS}/d000"] = 403
    async with operator(api) as (reconciler, now):
        await passes(reconciler, now, api, 3)
        assert rolled(api) == ["d001"]


async def test_workloads_that_are_down_wait_until_all_are_read() -> None:
    api = MemoryApi()
    api.put(PROFILES, a_profile())
    for number in range(2 * READ_IN_A_PASS):
        name = f"d{number:03}"
        api.put(DEPLOYMENTS, deployment(name, up=number == 2 * READ_IN_A_PASS - 1))
        api.put(PODS, pod_of(name))
    async with operator(api) as (reconciler, now):
        await passes(reconciler, now, api, 3)
        assert rolled(api) == [f"d{2 * READ_IN_A_PASS - 1:03}"], "the one that is up, though it was read last"


async def test_nothing_is_kept_of_a_profile_that_is_gone() -> None:
    api = fleet(1)
    async with operator(api) as (reconciler, now):
        await passes(reconciler, now, api, 1)
        api.remove(f"{PROFILES}/patio")
        await passes(reconciler, now, api, 1)
        assert reconciler._kept == {}


async def test_status_of_each_profile_is_told_until_it_is_gone() -> None:
    states: list[tuple[str, ObjectState | None]] = []
    api = fleet(3)
    async with operator(api) as (reconciler, now):
        reconciler.on_status = lambda name, state: states.append((name, state))
        await passes(reconciler, now, api, 2)
        assert states[-1] == ("patio", ObjectState("False", "Rolling", (0, 3)))
        api.remove(f"{PROFILES}/patio")
        now[0] += 5
        await reconciler.reconcile(("patio",))
        assert states[-1] == ("patio", None)

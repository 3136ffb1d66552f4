"""Passes over RoleBasedGroups: what they ask, what they write, what wakes them, and what is kept of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from patio_api import labels
from patio_api.labels import FIELD_MANAGER
from patio_kube.client import KubeClient
from patio_kube.runtime.workqueue import Key, WorkQueue
from patio_operator.caches import Caches
from patio_operator.groups.event_handlers import existing_keys, register
from patio_operator.groups.reconciler import PASSES_AT_ONCE, PODS_IN_A_PASS, GroupReconciler
from patio_operator.telemetry.object_gauges import ObjectState
from patio_testing.operator.group_simulator import leader_worker
from patio_testing.operator.memory_api import (
    GROUPS,
    PODS,
    PROFILES,
    STATEFUL_SETS,
    MemoryApi,
    connected,
    group,
    profile,
    role,
    serving,
)
from patio_testing.operator.waiting import until

Object = dict[str, Any]


@dataclass
class Operator:
    """The operator's part that realises groups."""

    api: MemoryApi
    cluster: KubeClient
    known: Caches
    reconciler: GroupReconciler
    groups: WorkQueue
    passes: list[Key]

    async def settled(self) -> None:
        """Wait until every watch is there and nothing is worked on."""
        quiet = 0

        def is_settled() -> bool:
            nonlocal quiet
            quiet = quiet + 1 if self.known.complete and not len(self.groups) else 0
            return quiet > 30

        await until("settled", is_settled, lambda: f"{len(self.groups)} keys, {self.api.requests}")


@asynccontextmanager
async def operator(api: MemoryApi, *, observing: Callable[[], bool] = lambda: False) -> AsyncIterator[Operator]:
    async with serving(api) as address, connected(address) as cluster, connected(address) as watching:
        known = Caches(watching)
        passes: list[Key] = []
        clock = asyncio.get_running_loop().time
        reconciler = GroupReconciler(cluster, known.groups, known.profiles, observing, clock)

        async def work(key: Key) -> float | None:
            passes.append(key)
            return await reconciler.reconcile(key)

        groups = WorkQueue("group", lambda: existing_keys(known.groups))
        members = (known.group_pods, known.stateful_sets)
        register(groups, known.groups, members, known.profiles, reconciler.groups_with)
        tasks = [asyncio.create_task(coroutine) for coroutine in (*known.watches(), groups.run(work))]
        try:
            yield Operator(api, cluster, known, reconciler, groups, passes)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_pass_over_what_is_as_it_should_be_writes_nothing() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g", role(), leader_worker()))
    async with operator(api) as running:
        await running.settled()
        assert f"{STATEFUL_SETS}/g-w" in api.objects
        assert f"{PODS}/g-multi-0-0" in api.objects
        api.requests.clear()
        passes = len(running.passes)
        running.groups.add(("team", "g"))
        await until("another pass", lambda: len(running.passes) > passes)
        await running.settled()
        assert api.writes == 0, api.requests
        assert sum(api.requests.values()) <= 8, api.requests


async def test_object_changed_by_another_writer_is_applied_again() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with operator(api) as running:
        await running.settled()
        changed = json.loads(json.dumps(api.objects[f"{STATEFUL_SETS}/g-w"]))
        changed["spec"]["replicas"] = 7
        (entry,) = [of for of in changed["metadata"]["managedFields"] if of["manager"] == FIELD_MANAGER]
        del entry["fieldsV1"]["f:spec"]["f:replicas"]  # as the API server takes it away from who applied it
        changed["metadata"]["managedFields"].append({"manager": "kubectl", "operation": "Update", "fieldsV1": {}})
        api.put(STATEFUL_SETS, changed)
        await until("as applied", lambda: api.objects[f"{STATEFUL_SETS}/g-w"]["spec"]["replicas"] == 1)


async def test_changed_group_is_applied() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with operator(api) as running:
        await running.settled()
        api.put(GROUPS, group("g", role(replicas=3), uid=api.objects[f"{GROUPS}/g"]["metadata"]["uid"]))
        await until("applied", lambda: api.objects[f"{STATEFUL_SETS}/g-w"]["spec"]["replicas"] == 3)


async def test_profiles_status_wakes_no_group() -> None:
    api = MemoryApi()
    api.put(PROFILES, profile("patio"))
    runtime = {"engineRuntimes": [{"profileName": "patio"}]}
    for number in range(100):
        api.put(GROUPS, group(f"g{number}", role(**runtime)))
    for number in range(300):
        api.put(GROUPS, group(f"gone{number}"))
        api.remove(f"{GROUPS}/gone{number}")
    async with operator(api) as running:
        await running.settled()
        assert api.most_at_once <= 8 * 6 + 8, "workers times the lists of a pass, and the watches' own"
        api.requests.clear()
        running.passes.clear()
        for number in range(20):
            api.put(PROFILES, profile("patio", pods=number))
        await until(
            "known", lambda: (known := running.known.profiles.get("patio")) is not None and known.status.pods == 19
        )
        await running.settled()
        assert running.passes == []
        assert not api.requests


async def test_profile_that_comes_wakes_the_groups_that_wait_for_it() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("waits", role(engineRuntimes=[{"profileName": "patio"}])))
    api.put(GROUPS, group("other"))
    async with operator(api) as running:
        await running.settled()
        assert f"{STATEFUL_SETS}/waits-w" not in api.objects
        running.passes.clear()
        api.put(PROFILES, profile("patio"))
        await until("made", lambda: f"{STATEFUL_SETS}/waits-w" in api.objects)
        assert ("team", "other") not in running.passes
        running.passes.clear()
        api.remove(f"{PROFILES}/patio")
        await until("told", lambda: ("team", "waits") in running.passes)


async def test_names_in_labels_are_keys_only_of_groups_that_exist() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with operator(api) as running:
        await running.settled()
        running.passes.clear()
        for number in range(500):
            metadata = {"name": f"job-{number}", "labels": {labels.GROUP_NAME: f"run-{number}"}}
            api.put(PODS, {"kind": "Pod", "metadata": metadata})
        api.put(PODS, {"kind": "Pod", "metadata": {"name": "own", "labels": {labels.GROUP_NAME: "g"}}})
        await until("the last is known", lambda: running.known.group_pods.get("own", "team") is not None)
        await running.settled()
        assert set(running.passes) == {("team", "g")}


async def test_nothing_is_kept_of_a_group_that_is_gone() -> None:
    api = MemoryApi()
    for number in range(20):
        api.put(GROUPS, group(f"g{number}"))
    async with operator(api) as running:
        await running.settled()
        assert len(running.reconciler) == 20
        for number in range(20):
            api.remove(f"{GROUPS}/g{number}")
        await until("forgotten", lambda: len(running.reconciler) == 0)
        await running.settled()
        assert len(running.groups) == 0


async def test_group_that_changes_all_the_time_rests_between_passes() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with operator(api) as running:
        await running.settled()
        api.requests.clear()
        began = asyncio.get_running_loop().time()
        for number in range(150):
            metadata = {"name": "busy", "labels": {labels.GROUP_NAME: "g"}, "annotations": {"n": str(number)}}
            api.put(PODS, {"kind": "Pod", "metadata": metadata})
            await asyncio.sleep(0.02)
        elapsed = asyncio.get_running_loop().time() - began
        assert api.requests["GET rolebasedgroups"] <= PASSES_AT_ONCE + elapsed + 1


async def test_in_observe_mode_a_group_is_not_even_read() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with operator(api, observing=lambda: True) as running:
        await running.settled()
        api.put(GROUPS, group("g", role("other")))
        await running.settled()
        assert ("team", "g") in running.passes
        assert api.requests["GET statefulsets"] == 1, "that of the watch"
        assert api.writes == 0


async def test_group_of_absurd_size_is_rejected_with_a_message() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("many", role(replicas=2_147_483_647)))
    api.put(GROUPS, group("wide", *(role(f"r{number}") for number in range(1000))))
    api.put(GROUPS, group("fine"))
    async with operator(api) as running:
        await until("the other is made", lambda: f"{STATEFUL_SETS}/fine-w" in api.objects)
        for name in ("many", "wide"):
            await until("refused", lambda name=name: "status" in api.objects[f"{GROUPS}/{name}"])  # type: ignore[misc]
            (ready,) = api.objects[f"{GROUPS}/{name}"]["status"]["conditions"]
            assert (ready["status"], ready["reason"]) == ("False", "Unsupported")
        await running.settled()


async def test_group_of_megabytes_delays_no_other() -> None:
    api = MemoryApi()
    env = [{"name": f"V{number}", "value": "x" * 20} for number in range(450)]
    large = [role(f"r{number}") for number in range(60)]
    for large_role in large:
        large_role["standalonePattern"]["template"]["spec"]["containers"][0]["env"] = env
    api.put(GROUPS, group("large", *large))
    api.put(GROUPS, group("fine"))
    async with operator(api) as running:
        await until("the other is made", lambda: f"{STATEFUL_SETS}/fine-w" in api.objects)
        await until("refused", lambda: "status" in api.objects[f"{GROUPS}/large"])
        (ready,) = api.objects[f"{GROUPS}/large"]["status"]["conditions"]
        assert (ready["status"], ready["reason"]) == ("False", "TooLarge")
        await running.settled()


async def test_group_that_is_handed_over_is_taken_down() -> None:
    states: list[ObjectState | None] = []
    api = MemoryApi()
    api.put(GROUPS, group("g", role(), leader_worker()))
    async with operator(api) as running:
        running.reconciler.on_status = lambda namespace, name, state: states.append(state)
        await running.settled()
        changed = api.objects[f"{GROUPS}/g"]
        changed["metadata"]["annotations"] = {labels.HAND_OVER: "true"}
        api.put(GROUPS, changed)

        def left() -> list[str]:
            return [path for path in api.objects if "/events/" not in path and path != f"{GROUPS}/g"]

        await until("nothing is left", lambda: not left(), left)
        (ready,) = api.objects[f"{GROUPS}/g"]["status"]["conditions"]
        assert ready["reason"] == "HandedOver"
        await until("it is states as none of Patio's", lambda: states[-1] is None, lambda: states)


async def test_group_of_many_pods_is_made_in_several_passes() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g", leader_worker(replicas=130)))
    async with operator(api) as running:

        def pods() -> int:
            return sum(path.startswith(f"{PODS}/") for path in api.objects)

        await until("some of them", pods)
        await until("all of them", lambda: pods() == 260, pods)
        assert len(running.passes) >= 260 / PODS_IN_A_PASS


async def test_group_whose_name_is_no_label_says_so() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("n" * 100))
    api.refused[STATEFUL_SETS] = 400
    async with operator(api) as running:
        await until("said", lambda: "status" in api.objects[f"{GROUPS}/{'n' * 100}"])
        (ready,) = api.objects[f"{GROUPS}/{'n' * 100}"]["status"]["conditions"]
        assert ready["reason"] == "Rejected"
        assert len(running.passes) < 5


async def test_group_nested_deeply_is_rejected_with_a_message() -> None:
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    api = MemoryApi()
    odd = role()
    odd["standalonePattern"]["template"]["spec"]["odd"] = deep
    api.put(GROUPS, group("odd", odd))
    async with operator(api) as running:
        await running.settled()
        (ready,) = api.objects[f"{GROUPS}/odd"]["status"]["conditions"]
        assert (ready["reason"], "nested too deeply" in ready["message"]) == ("InvalidSpec", True)


async def test_status_of_each_group_is_told_until_it_is_gone() -> None:
    states: dict[tuple[str, str], ObjectState | None] = {}
    api = MemoryApi()
    async with operator(api) as running:
        running.reconciler.on_status = lambda namespace, name, state: states.update({(namespace, name): state})
        api.put(GROUPS, group("g", role(), leader_worker()))
        api.put(GROUPS, group("odd") | {"spec": {"roles": [{"name": "w", "replicas": "many"}]}})
        await until("both are told", lambda: len(states) == 2, lambda: states)
        await running.settled()
        assert states["team", "g"] == ObjectState("False", "RoleNotReady", (2, 0))
        assert states["team", "odd"] == ObjectState("False", "InvalidSpec", (1, 0))
        api.remove(f"{GROUPS}/g")
        await until("it is gone", lambda: states["team", "g"] is None, lambda: states)


async def test_groups_of_upstream_are_told_as_none() -> None:
    states: list[ObjectState | None] = []
    api = MemoryApi()
    async with operator(api, observing=lambda: True) as running:
        running.reconciler.on_status = lambda namespace, name, state: states.append(state)
        api.put(GROUPS, group("g", role()))
        await until("a pass", lambda: running.passes)
        await running.settled()
        assert {*states} == {None}


async def test_group_that_becomes_upstreams_is_told_as_gone() -> None:
    states: list[ObjectState | None] = []
    observing = False
    api = MemoryApi()
    async with operator(api, observing=lambda: observing) as running:
        running.reconciler.on_status = lambda namespace, name, state: states.append(state)
        api.put(GROUPS, group("g", role()))
        await until("its status", lambda: states and states[-1])
        observing = True
        running.groups.add_all()
        await until("it is gone", lambda: states[-1] is None, lambda: states)

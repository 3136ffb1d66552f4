"""What a plan costs in large namespaces, counted: it grows with what there is to place, and comes in small parts."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from patio_api.loraadapter import LoraAdapter
from patio_kube.runtime import time_slices
from patio_kube.runtime.incremental import CHUNK, Incremental, run_to_end
from patio_kube.runtime.time_slices import Heap, in_slices
from patio_operator.loraadapters.planner import candidates, planner, selection
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.loraadapters.planner.plan import Plan, RemoveFinalizer
from patio_operator.loraadapters.planner.selection import PodIndex, load_request, selects
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.pods.engine_pod import EnginePod
from patio_testing.operator.builders import NOW, lora_adapter, pod, report, seen, silent


def fleet(adapters: int, pods: int, apps: int) -> tuple[list[LoraAdapter], list[EnginePod], dict[str, Observation]]:
    """Adapters and pods that are divided among so many applications, with everything loaded and labelled."""
    declared = [
        lora_adapter(f"a{index}", selector={"matchLabels": {"app": f"app{index % apps}", "tier": "gold"}})
        for index in range(adapters)
    ]
    reports = {adapter.metadata.name: report(load_request(adapter)) for adapter in declared}
    engine_pods, views = [], {}
    for number in range(pods):
        names = [f"a{index}" for index in range(number % apps, adapters, apps)]
        engine_pods.append(pod(f"p{number}", app=f"app{number % apps}", tier="gold", serving=names))
        views[engine_pods[-1].uid] = seen(*[reports[name] for name in names])
    return declared, engine_pods, views


def planned(adapters: list[LoraAdapter], pods: list[EnginePod], views: dict[str, Observation]) -> Incremental[Plan]:
    return planner.plan_incrementally(Snapshot(pods, views, adapters, NOW))


def test_selector_is_evaluated_for_candidates_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Counter[str]()

    def counting(adapter: LoraAdapter, labels: Any) -> bool:
        calls[adapter.metadata.name] += 1
        return selects(adapter, labels)

    monkeypatch.setattr(selection, "selects", counting)
    adapters, pods, views = fleet(100, 500, 50)
    plan = run_to_end(planned(adapters, pods, views))
    assert plan.actions == ()
    assert sum(len(placement.instances) for placement in plan.placements.values()) == 1000
    assert calls.total() <= 1000, "of 50,000 pairs"


def test_no_part_of_a_plan_is_about_many_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = 0
    candidate = candidates._candidate

    def counting(*args: Any) -> Any:
        nonlocal looked_up
        looked_up += 1
        return candidate(*args)

    monkeypatch.setattr(candidates, "_candidate", counting)
    steps = planned(*fleet(3, 1000, 1))
    most = 0
    while True:
        before = looked_up
        try:
            next(steps)
        except StopIteration:
            break
        most = max(most, looked_up - before)
    assert looked_up == 3000
    assert most == CHUNK


def test_candidates_are_exactly_what_is_selected() -> None:
    role = {"group": "g", "role": "worker"}
    adapters = [
        lora_adapter("one", selector={"matchLabels": {"app": "a"}}),
        lora_adapter("two", selector={"matchLabels": {"app": "a", "tier": "gold"}}),
        lora_adapter("none", selector={"matchLabels": {"app": "a", "tier": "tin"}}),
        lora_adapter("role", selector=None, roleRef=role),
    ]
    of_role = {"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "worker"}
    old_role = {"rolebasedgroup.workloads.x-k8s.io/name": "g", "rolebasedgroup.workloads.x-k8s.io/role": "worker"}
    pods = [{"app": "a"}, {"app": "a", "tier": "gold"}, {"tier": "gold"}, of_role, old_role, {"app": "b"}, {}]
    index: PodIndex[int] = PodIndex(adapters)
    for number, labels in enumerate(pods):
        index.add(labels, number)
    for adapter in adapters:
        expected = [number for number, labels in enumerate(pods) if selects(adapter, labels)]
        assert list(index.of(adapter)) == expected


async def test_others_have_their_turns_in_a_long_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    parts = 0

    def counted(steps: Incremental[Plan]) -> Incremental[Plan]:
        nonlocal parts
        while True:
            try:
                next(steps)
            except StopIteration as end:
                plan: Plan = end.value
                return plan
            parts += 1
            yield

    plan, spent = await in_slices(counted(planned(*fleet(10, 100, 1))))
    task.cancel()
    assert len(plan.placements) == 10
    assert parts >= 50
    assert turns >= parts
    assert spent > 0


async def test_nothing_is_collected_in_a_large_pass() -> None:
    heap = Heap()
    try:
        with heap.quiet(time_slices.SMALL - 1):
            assert gc.isenabled()
        with heap.quiet(time_slices.SMALL), heap.quiet(time_slices.SMALL):
            assert not gc.isenabled()
        assert gc.isenabled()
    finally:
        gc.unfreeze()
        gc.enable()


def test_many_deleted_adapters_read_each_report_once() -> None:
    adapters = [
        lora_adapter(f"a{index}", metadata={"deletionTimestamp": "2026-11-21T12:00:00Z"}) for index in range(50)
    ]
    reports = [report(load_request(adapter)) for adapter in adapters[:25]]
    plan = planner.plan(Snapshot([pod(serving=["a0"])], {"uid-pod-0": seen(*reports)}, adapters, NOW))
    released = {action.adapter.metadata.name for action in plan.actions if isinstance(action, RemoveFinalizer)}
    assert released == {f"a{index}" for index in range(25, 50)}


@pytest.mark.parametrize("skew", ["2026-11-21T11:58:00Z", "2026-11-21T12:02:00Z"])
def test_deletion_waits_by_the_operators_own_clock(skew: str) -> None:
    adapter = lora_adapter(metadata={"deletionTimestamp": skew})
    sidecar = silent(seen(report(load_request(adapter))))
    deleted_at = {"uid-sql": NOW}

    def actions(seconds: float) -> list[Any]:
        now = NOW + timedelta(seconds=seconds)
        return list(
            planner.plan(Snapshot([pod()], {"uid-pod-0": sidecar}, [adapter], now, deleted_at=deleted_at)).actions
        )

    assert actions(29) == []
    (released,) = actions(30)
    assert isinstance(released, RemoveFinalizer)
    assert released.left_on == ("pod-0",)

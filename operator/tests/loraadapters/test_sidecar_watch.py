"""What sidecars report, followed by long-polls: changes, silence, a thousand at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.simulated_sidecars import SimulatedFleet, SimulatedSidecar
from patio_operator.loraadapters import sidecar_watch as watch_module
from patio_operator.loraadapters.planner.observation import UNOBSERVED
from patio_operator.loraadapters.planner.selection import load_request
from patio_operator.loraadapters.sidecar_watch import SidecarWatch
from patio_operator.pods.engine_pod import EnginePod
from patio_testing.deadline import DEADLINE
from patio_testing.operator.builders import NOW, lora_adapter
from patio_testing.operator.waiting import eventually, until


@asynccontextmanager
async def following(count: int) -> AsyncIterator[tuple[SimulatedFleet, SidecarWatch, list[EnginePod], list[str]]]:
    """Follow so many sidecars: fleet, watch, their pods, and the namespaces that were woken."""
    woken: list[str] = []
    async with SimulatedFleet(SimulatedSidecar() for _ in range(count)) as fleet:
        pods = [
            EnginePod("team", f"pod-{number}", f"uid-{number}", "node-a", {}, ip, fleet.port)
            for number, ip in enumerate(fleet.sidecars)
        ]
        watch = SidecarWatch(woken.append, lambda: NOW, random.Random(0), ask_loopback=True)
        watch.follow("team", pods)
        try:
            await watch.first_answers("team", DEADLINE)
            # On a busy machine a first poll may end without an answer. It is repeated.
            await eventually("each has answered", lambda: all(adapters(watch, pod) == [] for pod in pods), True)
            yield fleet, watch, pods, woken
        finally:
            await watch.close()


def adapters(watch: SidecarWatch, pod: EnginePod) -> list[str] | None:
    answer = watch.seen("team")[pod.uid].answer
    return None if answer is None else [adapter.lora_name for adapter in answer.adapters]


async def test_change_is_seen_at_once_and_wakes_the_namespace() -> None:
    async with following(1) as (fleet, watch, (pod,), woken):
        assert adapters(watch, pod) == []
        woken.clear()
        (sidecar,) = fleet.sidecars.values()
        sidecar.load(load_request(lora_adapter()))
        await eventually("known", lambda: adapters(watch, pod), ["sql"])
        assert woken == ["team"]


async def test_sidecar_that_ends_is_unreachable_with_its_last_answer() -> None:
    async with following(1) as (fleet, watch, (pod,), _):
        (sidecar,) = fleet.sidecars.values()
        sidecar.load(load_request(lora_adapter()))
        await eventually("known", lambda: adapters(watch, pod), ["sql"])
        fleet.kill(pod.ip or "")
        await eventually("silence", lambda: adapters(watch, pod), None)
        sidecar = watch.seen("team")[pod.uid]
        assert (sidecar.ever_answered, sidecar.unreachable_since) == (True, NOW)
        assert sidecar.last is not None
        assert [adapter.lora_name for adapter in sidecar.last.adapters] == ["sql"]
        assert "does not answer" in sidecar.problem
        await fleet.start(pod.ip or "")
        await eventually("back", lambda: adapters(watch, pod), ["sql"])
        assert watch.seen("team")[pod.uid].unreachable_since is None


async def test_sidecar_that_stands_still_becomes_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(watch_module, "ANSWER_SECONDS", 0.2)
    async with following(1) as (fleet, watch, (pod,), _):
        (sidecar,) = fleet.sidecars.values()
        still = asyncio.Event()

        async def nothing(*_: object) -> bytes:
            await still.wait()
            return b""

        monkeypatch.setattr(sidecar, "adapters_after", nothing)
        await eventually("silence", lambda: adapters(watch, pod), None)
        still.set()


async def test_only_the_pods_that_there_are_are_followed() -> None:
    async with following(2) as (fleet, watch, pods, _):
        watch.follow("team", pods[:1])
        assert set(watch.seen("team")) == {"uid-0"}
        moved = EnginePod("team", "pod-0", "uid-0", "node-a", {}, pods[1].ip, fleet.port)
        watch.follow("team", [moved])
        assert watch.seen("team")["uid-0"] == UNOBSERVED
        await watch.first_answers("team", DEADLINE)
        assert adapters(watch, moved) == []
        watch.follow("team", [])
        assert watch.seen("team") == {}


async def test_first_polls_are_waited_for_however_they_end() -> None:
    async with following(2) as (fleet, watch, pods, _):
        fleet.kill(pods[1].ip or "")
        watch.follow("other", [EnginePod("other", pod.name, pod.uid, "", {}, pod.ip, pod.sidecar_port) for pod in pods])
        await watch.first_answers("other", DEADLINE)
        views = watch.seen("other")
        assert views["uid-0"].answer is not None
        assert (views["uid-1"].answer, views["uid-1"].unreachable_since) == (None, NOW)


async def test_three_hundred_sidecars_are_watched_by_a_long_poll_each() -> None:
    async with following(300) as (fleet, watch, pods, _):
        assert all(adapters(watch, pod) == [] for pod in pods)
        await eventually("each waits", lambda: min(sidecar.looks for sidecar in fleet.sidecars.values()) >= 2, True)
        for sidecar in fleet.sidecars.values():
            sidecar.load(load_request(lora_adapter()))
        await eventually("all know it", lambda: all(adapters(watch, pod) == ["sql"] for pod in pods), True)


async def test_sidecars_are_counted_by_how_they_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.05)
    async with following(3) as (fleet, watch, pods, _):
        assert watch.reached == {"unknown": 0, "reachable": 3, "unreachable": 0, "rejecting": 0}
        fleet.kill(pods[0].ip or "")
        await eventually("one is silent", lambda: (watch.reached["reachable"], watch.reached["unreachable"]), (2, 1))

        async def no_list(*_: object) -> bytes:
            return b"<html>"

        monkeypatch.setattr(fleet.sidecars[pods[1].ip or ""], "adapters_after", no_list)
        await eventually("one is another program", lambda: watch.reached["rejecting"], 1)
        await fleet.start(pods[0].ip or "")
        await eventually("one is back", lambda: (watch.reached["reachable"], watch.reached["unreachable"]), (2, 0))
        watch.follow("team", pods[:2])
        assert sum(watch.reached.values()) == 2
        watch.follow("team", [])
        assert set(watch.reached.values()) == {0}


async def test_sidecars_are_not_counted_after_the_end() -> None:
    async with following(2) as (_, watch, _, _):
        pass
    assert set(watch.reached.values()) == {0}


async def test_polls_are_told_with_their_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "POLL_SECONDS", 0.05)
    async with following(1) as (fleet, watch, (pod,), _):
        calls: set[tuple[str, int]] = set()
        watch.on_call = lambda call, status, seconds: calls.add((call, status))
        await until("a long-poll", lambda: ("watch", 200) in calls, lambda: calls)
        fleet.kill(pod.ip or "")
        await until("no answer", lambda: ("list", 0) in calls, lambda: calls)
        await fleet.start(pod.ip or "")
        await until("the first answer", lambda: ("list", 200) in calls, lambda: calls)


async def test_long_poll_of_a_pod_that_is_gone_is_no_lost_call() -> None:
    async with following(1) as (fleet, watch, _, _):
        calls: list[tuple[str, int]] = []
        watch.on_call = lambda call, status, seconds: calls.append((call, status))
        (sidecar,) = fleet.sidecars.values()
        sidecar.load(load_request(lora_adapter()))
        await until("a long-poll", lambda: calls)
    assert [status for _, status in calls if status == 0] == []

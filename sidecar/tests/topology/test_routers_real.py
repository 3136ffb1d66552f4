"""The topology with real routers: sglang-router 0.3.2 and smg 1.13.0, engine doubles behind them, all on 127.0.0.1."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.builders import eventually
from patio_testing.sidecar.processes import ROUTERS, Machine, PodProcesses, RouterProcess, kill, machine

HEARTBEAT = 1.0
TOKENS = 100
"""Of a stream, at 20 a second: long enough to be seen while it runs. Where it is not, another one is started."""


@pytest.fixture
async def local_machine(tmp_path: Path) -> AsyncIterator[Machine]:
    async with machine(tmp_path) as started:
        yield started


def with_both(scenario: Callable[[str, Machine], Awaitable[None]]) -> Callable[[Machine], Awaitable[None]]:
    """Turn a scenario into a test that lives it through with both routers at once: it is mostly waiting."""

    async def test(local_machine: Machine) -> None:
        async def run_scenario(kind: str) -> None:
            folder = local_machine.folder / kind
            folder.mkdir()
            await scenario(kind, replace(local_machine, folder=folder))

        async with asyncio.TaskGroup() as tasks:
            for kind in ROUTERS:
                tasks.create_task(run_scenario(kind))

    test.__name__ = getattr(scenario, "__name__", "test")
    return test


def direct(router: RouterProcess, **variables: str) -> dict[str, str]:
    return {"TOPO_REGISTER_ENDPOINT": router.url, "HEARTBEAT_INTERVAL": str(HEARTBEAT), **variables}


@with_both
async def test_worker_is_listed_with_ready_engine_and_over_restarts(kind: str, local_machine: Machine) -> None:
    router = RouterProcess(local_machine, kind, key="sekret")
    pod = PodProcesses(local_machine, "pod-0", variables=direct(router, SGL_ROUTER_API_KEY="sekret"))
    await asyncio.gather(router.start(), pod.start_sidecar())
    await pod.reaches("NotRegistered", "EngineNotReady")
    assert await router.workers() == {}
    await pod.start_engine()
    await pod.reaches("Registered")
    await router.lists(pod.url)

    await kill(pod.engine)
    await pod.reaches("NotRegistered", "EngineNotReady")
    await router.lists()
    await pod.start_engine()
    await pod.reaches("Registered")

    await kill(router.process)
    await router.start()
    await router.lists(pod.url)

    assert await pod.terminate_sidecar() == 0
    remaining = await router.workers()
    assert [worker["status"] for worker in remaining.values()] in ([], ["draining"])
    assert (await local_machine.http.get(f"{pod.url}/health")).status_code == 200
    assert "sekret" not in local_machine.read_log("pod-0-sidecar")


@with_both
async def test_drained_pod_gets_nothing_more_and_ends_what_it_has(kind: str, local_machine: Machine) -> None:
    router = RouterProcess(local_machine, kind)
    pods = [PodProcesses(local_machine, name, variables=direct(router)) for name in ("pod-0", "pod-1")]
    await asyncio.gather(
        router.start(),
        *(pod.start_engine("--tokens-per-second", "20") for pod in pods),
        *(pod.start_sidecar() for pod in pods),
    )
    await router.lists(*(pod.url for pod in pods))
    streams: list[asyncio.Task[str | None]] = []

    async def busy() -> bool:
        if all(task.done() for task in streams):
            streams[:] = [asyncio.create_task(stream(router, TOKENS)) for _ in range(4)]
        return all([await running(local_machine, pod) for pod in pods])

    await eventually(busy, "both engines have streams")
    drained, (statuses, reasons) = await asyncio.gather(pods[0].client.drain(60), requests_meanwhile(router, streams))
    assert (drained.drained, drained.running, drained.waiting, drained.unregistered) == (True, 0, 0, True)
    assert reasons == ["length"] * 4
    assert set(statuses) == {200}
    assert not (await pods[0].client.ready()).ready
    assert await served(local_machine, pods[1]) > await served(local_machine, pods[0])
    await router.lists(pods[1].url)

    # A router that is gone holds no end up.
    await kill(router.process)
    assert await pods[1].terminate_sidecar() == 0
    assert "exiting while a router still lists" in local_machine.read_log("pod-1-sidecar")


async def stream(router: RouterProcess, tokens: int) -> str | None:
    """Return the finish reason of a stream through the router."""
    body = {"model": "tiny", "prompt": "a b c", "max_tokens": tokens, "stream": True}
    reason: str | None = None
    async with router.machine.http.stream(
        "POST", f"{router.url}/v1/completions", json=body, timeout=DEADLINE
    ) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                reason = json.loads(line.removeprefix("data: "))["choices"][0]["finish_reason"] or reason
    return reason


async def requests_meanwhile(
    router: RouterProcess, streams: list[asyncio.Task[str | None]]
) -> tuple[list[int], list[str | None]]:
    """Send short requests while streams run; return their statuses, and how the streams ended."""
    statuses = []
    while not all(task.done() for task in streams):
        statuses.append((await router.complete(max_tokens=1)).status_code)
        await asyncio.wait(streams, timeout=0.1)
    return statuses, [task.result() for task in streams]


async def running(local_machine: Machine, pod: PodProcesses) -> int:
    state: dict[str, Any] = (await local_machine.http.get(f"{pod.url}/_double/state")).json()
    return int(state["running"])


async def served(local_machine: Machine, pod: PodProcesses) -> int:
    answer = await local_machine.http.get(f"{pod.url}/_double/requests", params={"path": "/v1/completions"})
    return len(answer.json())


@with_both
async def test_router_that_ignores_prefill_worker_gets_one_order(kind: str, local_machine: Machine) -> None:
    router = RouterProcess(local_machine, kind)
    info = '{"data": {"worker_type": "prefill", "bootstrap_port": 34000}}'
    pod = PodProcesses(local_machine, "pod-0", "sglang", direct(router), ("--instance-info", info))
    await asyncio.gather(router.start(), pod.start())
    await pod.reaches("Failed", "RouterModeMismatch")
    report = await pod.topology()
    assert report is not None
    assert "--pd-disaggregation" in report.registrations[0].message

    async def readings() -> bool:
        latest = await pod.topology()
        return latest is not None and (latest.registrations[0].verified or 0) > (report.registrations[0].verified or 0)

    await eventually(readings, "the router is read again")
    await pod.reaches("Failed", "RouterModeMismatch")
    assert local_machine.read_log("pod-0-sidecar").count("worker add") == 1


@with_both
async def test_prefill_and_decode_workers_serve_a_router_for_pairs(kind: str, local_machine: Machine) -> None:
    router = RouterProcess(local_machine, kind, ("--pd-disaggregation",))
    infos = ('{"data": {"worker_type": "prefill", "bootstrap_port": 34000}}', '{"data": {"worker_type": "decode"}}')
    pods = [
        PodProcesses(local_machine, f"pod-{number}", "sglang", direct(router), ("--instance-info", info))
        for number, info in enumerate(infos)
    ]
    await asyncio.gather(router.start(), *(pod.start_engine() for pod in pods))
    # The router has one of them as something else already: that has to go first.
    await local_machine.answers(f"{pods[1].url}/ready")
    await local_machine.http.post(f"{router.url}/workers", json={"url": pods[1].url})
    await router.lists(pods[1].url)
    await asyncio.gather(*(pod.start_sidecar() for pod in pods))
    for pod in pods:
        await pod.reaches("Registered")
    listed = await router.workers()
    assert (listed[pods[0].url]["worker_type"], listed[pods[0].url]["bootstrap_port"]) == ("prefill", 34000)
    assert listed[pods[1].url]["worker_type"] == "decode"
    assert (await router.complete()).status_code == 200


async def test_smg_drops_dead_within_lease_and_regains_all_on_restart(
    local_machine: Machine,
) -> None:
    router = RouterProcess(local_machine, "smg")
    server = PodProcesses(
        local_machine, "router-0", variables={"TOPO_ROLE": "server", "SGL_ROUTER_PORT": str(router.port)}
    )
    pods = [PodProcesses(local_machine, name) for name in ("pod-0", "pod-1", "pod-2")]
    for pod in pods:
        pod.variables = {
            "TOPO_REGISTER_ENDPOINT": f"http://127.0.0.1:{server.sidecar_port}",
            "HEARTBEAT_INTERVAL": str(HEARTBEAT),
        }
    manual = PodProcesses(local_machine, "by-hand")
    await asyncio.gather(router.start(), server.start_sidecar(), manual.start_engine(), *(pod.start() for pod in pods))
    await local_machine.answers(f"{manual.url}/health")
    await local_machine.http.post(f"{router.url}/workers", json={"url": manual.url})
    for pod in pods:
        await pod.reaches("Registered")
    await router.lists(manual.url, *(pod.url for pod in pods))
    report = await server.topology()
    assert report is not None
    assert (report.role, report.registered) == ("server", True)
    assert {lease.id for lease in report.leases} == {"pod-0.team-a", "pod-1.team-a", "pod-2.team-a"}
    assert (await server.client.ready()).ready

    # Dead without a word.
    await kill(pods[0].engine, pods[0].sidecar)
    await router.lists(manual.url, pods[1].url, pods[2].url)

    # The router forgets everything; only what has a lease comes back.
    await kill(router.process)
    await router.start()
    await router.lists(pods[1].url, pods[2].url)

    # The sidecar beside it dies, and one of its workers meanwhile.
    await kill(server.sidecar)
    await kill(pods[1].engine, pods[1].sidecar)
    await server.start_sidecar()
    await pods[2].reaches("Registered")
    await router.lists(pods[2].url)

    assert pods[0].url not in await router.workers()

    # A goodbye takes no lease.
    assert await pods[2].terminate_sidecar() == 0
    await router.lists()

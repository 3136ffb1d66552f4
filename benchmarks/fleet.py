"""`make bench-fleet`: the operator and a large fleet: a real API server, the operator, simulated pods and sidecars.

First `benchmarks.plans`, which needs none of these. Then three measurements: one LoraAdapter on a thousand pods; a
hundred LoraAdapters with three replicas each on a hundred pods, one of which is then lost; and a thousand groups behind
a slow API server (`benchmarks.groups`). Pods are objects of the API server whose address is loopback; behind each is a
sidecar of `benchmarks.simulated_sidecars`. Prints what docs/project/benchmarks.md shows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from kubernetes.aio import client, config

from benchmarks import groups, plans
from benchmarks.simulated_sidecars import address
from e2e_cluster.control_plane import ControlPlane, control_plane
from inference_server.ports import free_port
from patio_kube.client import KubeClient, Object, Scope
from patio_kube.resources import LORA_ADAPTER, POD
from patio_testing.chart import install_chart
from patio_testing.operator_process import OperatorProcess

ROOT = Path(__file__).parents[1]
OPERATOR = "system:serviceaccount:patio-system:patio-operator"
NAMESPACE = "fleet"
AT_ONCE = 24
DEADLINE = 180.0


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--pods", type=int, default=1000, help="of the first measurement (%(default)s; 0: leave it out)"
    )
    parser.add_argument("--adapters", type=int, default=100, help="of the second, on as many pods (0: leave it out)")
    parser.add_argument(
        "--groups",
        type=int,
        default=1000,
        help="RoleBasedGroups behind a slow API server (%(default)s; 0: leave it out)",
    )
    parser.add_argument("--no-plans", action="store_true", help="leave out the passes over 2,000 LoraAdapters")
    arguments = parser.parse_args()
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, {load}", flush=True)
    if not arguments.no_plans:
        plans.in_processes()
    for measure, number in ((one_on_many, arguments.pods), (many_on_many, arguments.adapters)):
        if number:
            with environment(number) as fleet:
                asyncio.run(measure(fleet, number))
    if arguments.groups:
        with groups.operator_behind_delay() as (plane, operator):
            asyncio.run(measure_groups(plane, operator, arguments.groups))


async def measure_groups(plane: ControlPlane, operator: OperatorProcess, number: int) -> None:
    """Measure with a connection of the administrator's, which nothing delays."""
    async with connected(plane) as cluster:
        await groups.many_groups(cluster, operator, number)


@dataclass(frozen=True)
class Environment:
    """An API server with the chart, sidecars, and the operator as a process."""

    plane: ControlPlane
    port: int
    operator: subprocess.Popen[bytes]
    health: str

    def memory(self) -> tuple[float, float]:
        """Return the operator's resident memory in MB, now and at most."""
        text = Path(f"/proc/{self.operator.pid}/status").read_text()
        now, most = (int(re.findall(rf"{name}:\s+(\d+)", text)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        return now, most

    def cpu(self) -> float:
        """Return the seconds of CPU that the operator has used."""
        fields = Path(f"/proc/{self.operator.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def environment(pods: int) -> Iterator[Environment]:
    """Start everything, for so many sidecars."""
    with control_plane() as plane, contextlib.ExitStack() as stack:
        install_chart(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        command = [sys.executable, "-m", "benchmarks.simulated_sidecars", f"--count={pods}"]
        sidecars = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        stack.callback(_end, sidecars)
        assert sidecars.stdout is not None
        port = int(sidecars.stdout.readline())
        health, webhook = free_port(), free_port()
        variables = {
            "PATH": os.environ["PATH"],
            "KUBECONFIG": str(plane.kubeconfig_for(OPERATOR)),
            "PATIO_NAMESPACE": "patio-system",
            "POD_NAME": "patio-operator-0",
            "PATIO_HEALTH_PORT": str(health),
            "PATIO_WEBHOOK_PORT": str(webhook),
            "PATIO_LOG_LEVEL": "WARNING",
            "PATIO_ASK_LOOPBACK": "true",
        }
        log = stack.enter_context(tempfile.TemporaryFile())
        operator = subprocess.Popen([sys.executable, "-m", "patio_operator"], env=variables, stderr=log, stdout=log)
        stack.callback(_end, operator)
        try:
            yield Environment(plane, port, operator, f"http://127.0.0.1:{health}")
        finally:
            log.seek(0)
            for line in log.read().decode().splitlines()[-20:]:
                print(f"operator: {line}")


async def one_on_many(fleet: Environment, pods: int) -> None:
    """One LoraAdapter on so many pods."""
    async with connected(fleet.plane) as cluster:
        await make_pods(cluster, fleet, pods)
        await followed(fleet, pods)
        idle, _ = fleet.memory()
        cpu, began = fleet.cpu(), time.monotonic()
        await asyncio.sleep(10)
        resting = (fleet.cpu() - cpu) / (time.monotonic() - began)
        statuses = Statuses(cluster)
        async with statuses.watching():
            cpu, began = fleet.cpu(), time.monotonic()
            await cluster.create(LORA_ADAPTER, lora_adapter("one"), NAMESPACE)
            elapsed = await statuses.until(lambda: statuses.ready("one") == pods) - began
            await labelled(cluster, pods, began)
            marked = time.monotonic() - began
            used = fleet.cpu() - cpu
        now, most = fleet.memory()
        print(f"\none LoraAdapter on {pods} pods")
        print(f"  ready on all of them in the status after: {elapsed:.1f} s")
        print(f"  all of them labelled after: {marked:.1f} s")
        print(f"  status writes: {statuses.writes()}, most in any second: {statuses.most_in_a_second()}")
        print(
            f"  operator: {idle:.0f} MB before, {now:.0f} MB after, {most:.0f} MB at most; {used:.1f} s of CPU for it"
        )
        print(f"  operator, nothing happening: {resting:.0%} of a core")


async def many_on_many(fleet: Environment, number: int) -> None:
    """So many LoraAdapters with three replicas each on as many pods, then one pod lost."""
    async with connected(fleet.plane) as cluster:
        await make_pods(cluster, fleet, number)
        await followed(fleet, number)
        names = [f"adapter-{index}" for index in range(number)]
        statuses = Statuses(cluster)
        async with statuses.watching():
            began = time.monotonic()
            await some_at_once(
                cluster.create(LORA_ADAPTER, lora_adapter(name, replicas=3), NAMESPACE) for name in names
            )
            elapsed = await statuses.until(lambda: all(statuses.ready(name) == 3 for name in names)) - began
            before = {name: statuses.pods(name) for name in names}
            lost = max(
                sorted(set().union(*before.values())), key=lambda pod: sum(pod in each for each in before.values())
            )
            on_it = {name for name in names if lost in before[name]}
            crowded = max(sum(f"pod-{pod}" in each for each in before.values()) for pod in range(number))
            began = time.monotonic()
            async with httpx.AsyncClient() as http:
                index = int(lost.removeprefix("pod-"))
                # By way of another one: the connections of the one that is killed end at once.
                url = f"http://{address((index + 1) % number)}:{fleet.port}/simulated/kill"
                (await http.post(url, params={"address": address(index)})).raise_for_status()
            fleet.plane.kubectl("-n", NAMESPACE, "delete", "pod", lost, "--grace-period=0", "--force", "--wait=false")

            def recovered() -> bool:
                return all(statuses.ready(name) == 3 and lost not in statuses.pods(name) for name in names)

            again = await statuses.until(recovered) - began
            moved = {name for name in names if statuses.pods(name) != before[name]}
            kept = all(before[name] - {lost} <= statuses.pods(name) for name in names)
        _, most = fleet.memory()
        print(f"\n{number} LoraAdapters, replicas 3, on {number} pods (at most {crowded} on one)")
        print(f"  all ready in their statuses after: {elapsed:.1f} s")
        print(f"  a pod with {len(on_it)} of them lost: all ready again after {again:.1f} s")
        print(f"  moved: {len(moved)}, all of that pod: {moved == on_it}, nothing else of them moved: {kept}")
        print(f"  most status writes of one object in any second: {statuses.most_in_a_second()}")
        print(f"  operator: {most:.0f} MB at most", flush=True)


@dataclass
class Statuses:
    """The statuses of LoraAdapters, as a watch tells of them, and when they changed."""

    cluster: KubeClient
    now: dict[str, Object] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def watching(self) -> Any:
        """Watch until the end of the block."""
        versions = [version async for _, version in self.cluster.pages(LORA_ADAPTER)]
        task = asyncio.create_task(self._watch(versions[-1]))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def until(self, good: Callable[[], bool]) -> float:
        """Wait; return when it was seen (monotonic)."""
        async with asyncio.timeout(DEADLINE):
            while not good():
                self.changed.clear()
                await self.changed.wait()
        return time.monotonic()

    def ready(self, name: str) -> int:
        """Return its readyReplicas."""
        return int(self.now.get(name, {}).get("readyReplicas", 0))

    def pods(self, name: str) -> set[str]:
        """Return the pods that it is loaded on."""
        instances = self.now.get(name, {}).get("instances") or []
        return {instance["pod"] for instance in instances if instance["state"] == "Loaded"}

    def writes(self) -> int:
        """Return how many writes there were."""
        return sum(map(len, self.times.values()))

    def most_in_a_second(self) -> int:
        """Return the most writes of one object within a second, less the 10 ms by which news may be late."""
        return max(
            (sum(0 <= other - moment < 0.99 for other in times) for times in self.times.values() for moment in times),
            default=0,
        )

    async def _watch(self, version: str) -> None:
        async for event in self.cluster.watch(LORA_ADAPTER, version):
            if event["type"] not in ("ADDED", "MODIFIED"):
                continue
            body = event["object"]
            name, status = body["metadata"]["name"], body.get("status") or {}
            if status != self.now.get(name, {}):
                self.now[name] = status
                self.times[name].append(time.monotonic())
                self.changed.set()


def lora_adapter(name: str, **spec: Any) -> Object:
    """Return a LoraAdapter for the fleet's pods."""
    source = {"uri": f"file:///adapters/{name}"}
    selector = {"matchLabels": {"app": "vllm"}}
    return {
        "apiVersion": LORA_ADAPTER.api_version,
        "kind": LORA_ADAPTER.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"source": source, "selector": selector, **spec},
    }


async def make_pods(cluster: KubeClient, fleet: Environment, number: int) -> None:
    """Create pods that run, ten a node, with what pods of Kubernetes carry."""

    async def make_pod(index: int) -> None:
        port = {"name": "patio", "containerPort": fleet.port}
        variables = [{"name": f"VARIABLE_{each}", "value": "x" * 40} for each in range(30)]
        body: Object = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pod-{index}", "labels": {"app": "vllm", "patio.dev/injected": "true"}},
            "spec": {
                "nodeName": f"node-{index // 10}",
                "containers": [{"name": "engine", "image": "engine", "env": variables}],
                "initContainers": [{"name": "patio", "image": "patio", "restartPolicy": "Always", "ports": [port]}],
            },
        }
        await cluster.create(POD, body, NAMESPACE)
        ip = address(index)
        ready = {"type": "Ready", "status": "True"}
        status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]}
        await cluster.merge(POD, f"pod-{index}", NAMESPACE, {"status": status}, "status")

    await some_at_once(make_pod(index) for index in range(number))


async def followed(fleet: Environment, number: int) -> None:
    """Wait until each sidecar has a long-poll."""
    async with asyncio.timeout(DEADLINE):
        while (found := _established(fleet.port)) < number:
            if fleet.operator.poll() is not None:
                raise SystemExit("the operator ended")
            await asyncio.sleep(0.5)
    print(f"  ({found} long-polls)", flush=True)


async def labelled(cluster: KubeClient, number: int, began: float) -> None:
    """Wait until so many pods have the adapter's label."""
    while time.monotonic() - began < DEADLINE:
        scope = Scope(labels="lora.patio.dev/one=loaded", metadata_only=True)
        if sum([len(pods) async for pods, _ in cluster.pages(POD, scope)]) == number:
            return
        await asyncio.sleep(0.25)
    print("  (not all pods were labelled)")


async def some_at_once(work: Any) -> None:
    """Await all, some at a time."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def limited(coroutine: Any) -> None:
        async with slots:
            await coroutine

    await asyncio.gather(*(limited(coroutine) for coroutine in work))


@contextlib.asynccontextmanager
async def connected(plane: ControlPlane) -> Any:
    """Connect to the API server as its administrator."""
    configuration = client.Configuration()
    await config.load_kube_config(config_file=str(plane.kubeconfig), client_configuration=configuration)
    cluster = KubeClient(client.ApiClient(configuration), "patio-operator")
    try:
        yield cluster
    finally:
        await cluster.close()


def _established(port: int) -> int:
    """Return how many connections there are to the sidecars' port."""
    wanted = f":{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(line[1].endswith(wanted) and line[3] == "01" for line in lines)


def _end(process: subprocess.Popen[Any]) -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()

"""`make bench-fleet`: many RoleBasedGroups behind a slow API server: what it costs the Lease and admissions.

Every answer of the API server reaches the operator later by `ANSWER_DELAY`. Meanwhile the webhook is asked about pods
at a steady rate, by its own port, since what is of interest is the operator's own time. The Lease is read past the
delay.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from e2e_cluster.control_plane import ControlPlane, control_plane
from patio_kube.client import KubeClient, Object
from patio_kube.resources import LEASE, PROFILE, ROLE_BASED_GROUP, SECRET, STATEFUL_SET, Resource
from patio_operator.webhooks.server import PODS_PATH
from patio_testing.chart import install_chart
from patio_testing.kube import until
from patio_testing.operator_process import OPERATOR, OperatorProcess
from patio_testing.tcp_proxy import TcpProxy

ROOT = Path(__file__).parents[1]
NAMESPACE = "fleet"
ANSWER_DELAY = 0.3
ADMISSIONS_PER_SECOND = 20
DEADLINE = 1800.0
OWN_TIME = "patio_operator_admission_duration_seconds"
WEBHOOK_NAME = "patio-webhook.patio-system.svc"


@dataclass
class LeaseRecord:
    """What was seen of the operator's Lease."""

    holder: str = ""
    transitions: int = 0
    longest_unrenewed: float = 0.0
    """Seconds that it had not been renewed for, at most."""
    duration: float = 0.0


@contextlib.contextmanager
def operator_behind_delay() -> Iterator[tuple[ControlPlane, OperatorProcess]]:
    """Start an API server with the chart, and the operator behind a network that delays every answer."""
    with control_plane() as plane, tempfile.TemporaryDirectory() as folder:
        install_chart(plane)
        plane.kubectl("create", "namespace", NAMESPACE)
        server = urlsplit(plane.server).port
        assert server is not None
        with closing(TcpProxy(lambda: [server], ANSWER_DELAY)) as network:
            kubeconfig = Path(folder) / "kubeconfig"
            kubeconfig.write_text(plane.kubeconfig_for(OPERATOR).read_text().replace(f":{server}", f":{network.port}"))
            operator = OperatorProcess(kubeconfig, PATIO_LOG_LEVEL="WARNING")
            try:
                operator.start()
                until("the operator leads", operator.leads)
                yield plane, operator
            finally:
                operator.end()


async def many_groups(cluster: KubeClient, operator: OperatorProcess, number: int) -> None:
    """Create so many groups; print how the Lease and the admissions fared until every one is realised."""
    async with asyncio.timeout(DEADLINE):
        await cluster.create(PROFILE, profile())
        record = LeaseRecord()
        before = own_times(operator.metrics())
        async with in_background(watch_lease(cluster, record)), in_background(ask_about_pods(cluster, operator)):
            began = time.monotonic()
            slots = asyncio.Semaphore(24)

            async def create(index: int) -> None:
                async with slots:
                    await cluster.create(ROLE_BASED_GROUP, group(f"group-{index}"), NAMESPACE)

            await asyncio.gather(*(create(index) for index in range(number)))
            created = time.monotonic() - began
            while await count(cluster, STATEFUL_SET) < number or await without_status(cluster):
                if not operator.runs():
                    raise SystemExit(f"the operator ended: {operator.logged()[-3000:]}")
                await asyncio.sleep(1)
            took = time.monotonic() - began
        after = own_times(operator.metrics())
    admissions = {bound: after[bound] - before.get(bound, 0) for bound in after}
    total = max(admissions.values())
    within = next(bound for bound, reached in sorted(admissions.items()) if reached >= 0.99 * total)
    print(f"\n{number} RoleBasedGroups, the API server's answers {ANSWER_DELAY} s late")
    print(f"  created in {created:.0f} s, realised with a status after {took:.0f} s")
    print(
        f"  Lease: {record.transitions} changes of its holder, unrenewed for {record.longest_unrenewed:.1f} s at most, "
        f"of {record.duration:.0f} s; the operator leads: {operator.leads()}"
    )
    print(
        f"  {total} admissions meanwhile: 99 of 100 within {within * 1000:g} ms of the webhook's own time", flush=True
    )


async def watch_lease(cluster: KubeClient, record: LeaseRecord) -> None:
    """Note what becomes of the Lease, twice a second."""
    while True:
        spec = (await cluster.get(LEASE, "patio-operator", "patio-system"))["spec"]
        if record.holder and spec["holderIdentity"] != record.holder:
            record.transitions += 1
        record.holder, record.duration = spec["holderIdentity"], spec["leaseDurationSeconds"]
        unrenewed = (datetime.now(UTC) - datetime.fromisoformat(spec["renewTime"])).total_seconds()
        record.longest_unrenewed = max(record.longest_unrenewed, unrenewed)
        await asyncio.sleep(0.5)


async def ask_about_pods(cluster: KubeClient, operator: OperatorProcess) -> None:
    """Send AdmissionReviews to the webhook's port, so many a second; each must be answered with a patch."""
    secret = await cluster.get(SECRET, "patio-webhook-tls", "patio-system")
    context = ssl.create_default_context(cadata=base64.b64decode(secret["data"]["ca.crt"]).decode())
    url = f"https://127.0.0.1:{operator.webhook_port}{PODS_PATH}"
    async with httpx.AsyncClient(verify=context, timeout=60, trust_env=False) as http, asyncio.TaskGroup() as tasks:

        async def ask(index: int) -> None:
            answer = await http.post(url, json=review(index), extensions={"sni_hostname": WEBHOOK_NAME})
            answer.raise_for_status()
            assert "patch" in answer.json()["response"], answer.text

        index = 0
        while True:
            tasks.create_task(ask(index))
            index += 1
            await asyncio.sleep(1 / ADMISSIONS_PER_SECOND)


@contextlib.asynccontextmanager
async def in_background(work: Any) -> AsyncIterator[None]:
    """Run it until the end of the block. If it fails, the block ends with its error."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work)
        yield
        task.cancel()


async def count(cluster: KubeClient, resource: Resource) -> int:
    """Return how many objects there are in the namespace."""
    return len(await cluster.list_all(resource, NAMESPACE))


async def without_status(cluster: KubeClient) -> int:
    """Return how many groups have no status of their present generation."""
    groups = await cluster.list_all(ROLE_BASED_GROUP, NAMESPACE)
    return sum(body.get("status", {}).get("observedGeneration") != body["metadata"]["generation"] for body in groups)


def own_times(metrics: str) -> dict[float, int]:
    """Return how many admissions took at most so many seconds."""
    lines = re.findall(rf'^{OWN_TIME}_bucket{{(?=.*webhook="pods").*?le="([^"]+)".*}} (\S+)$', metrics, re.MULTILINE)
    return {float(bound): int(float(reached)) for bound, reached in lines}


def profile() -> Object:
    """Return the profile that the pods ask for."""
    container = {"name": "side", "image": "side:1"}
    return {
        "apiVersion": PROFILE.api_version,
        "kind": PROFILE.kind,
        "metadata": {"name": "slow"},
        "spec": {"updateStrategy": "NoUpdate", "containers": [container]},
    }


def group(name: str) -> Object:
    """Return a group of one role."""
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    role = {"name": "worker", "replicas": 1, "standalonePattern": {"template": {"spec": pod}}}
    return {
        "apiVersion": ROLE_BASED_GROUP.api_version,
        "kind": ROLE_BASED_GROUP.kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"roles": [role]},
    }


def review(index: int) -> Object:
    """Return what the API server asks about a new pod."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"asked-{index}", "namespace": NAMESPACE, "labels": {"patio.dev/profile": "slow"}},
        "spec": {"containers": [{"name": "engine", "image": "e", "command": ["vllm", "serve", "m"]}]},
    }
    request = {
        "uid": f"uid-{index}",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": NAMESPACE,
        "operation": "CREATE",
        "object": pod,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}

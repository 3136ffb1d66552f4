"""Two replicas of the operator against a real API server: one reconciles, both are ready, and another takes over."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from e2e_cluster.control_plane import ControlPlane
from patio_testing.kube import Kube, condition, until
from patio_testing.operator_process import OPERATOR, OperatorProcess
from patio_testing.tcp_proxy import TcpProxy

pytestmark = pytest.mark.api

TAKEOVER_SECONDS = 15.0


def lease(kube: Kube) -> dict[str, Any]:
    found: dict[str, Any] = kube.get("/apis/coordination.k8s.io/v1/namespaces/patio-system/leases/patio-operator")
    return found["spec"]


def rbg(namespace: str, name: str) -> dict[str, Any]:
    pod = {"containers": [{"name": "engine", "image": "engine"}]}
    return {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "RoleBasedGroup",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"roles": [{"name": "worker", "replicas": 1, "standalonePattern": {"template": {"spec": pod}}}]},
    }


def realised(kube: Kube, namespace: str, name: str) -> Any:
    return kube.get(f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{name}-worker")


def passes(operator: OperatorProcess) -> float:
    name = 'patio_operator_reconciles_total{kind="RoleBasedGroup",outcome="success"} '
    return next(float(line.removeprefix(name)) for line in operator.metrics().splitlines() if line.startswith(name))


def leader_and_standby(replicas: list[OperatorProcess]) -> tuple[OperatorProcess, OperatorProcess]:
    (leader,) = [replica for replica in replicas if replica.leads()]
    (standby,) = [replica for replica in replicas if replica is not leader]
    return leader, standby


def test_one_replica_reconciles_and_both_are_ready(kube: Kube, namespace: str, replicas: list[OperatorProcess]) -> None:
    leader, standby = leader_and_standby(replicas)
    assert lease(kube)["holderIdentity"] == leader.name
    kube.apply(rbg(namespace, "one"))
    until("the group is realised", lambda: realised(kube, namespace, "one"))
    assert passes(leader) > 0
    assert passes(standby) == 0
    assert leader.ready()
    assert standby.ready()


def test_killed_leader_is_replaced_without_double_work(
    kube: Kube, namespace: str, replicas: list[OperatorProcess]
) -> None:
    leader, standby = leader_and_standby(replicas)
    kube.apply(rbg(namespace, "before"))
    before = until("the group is realised", lambda: realised(kube, namespace, "before"))
    ready = until("its status is written", lambda: condition(group(kube, namespace, "before"), "Ready"))
    leader.kill()
    killed = time.monotonic()
    kube.apply(rbg(namespace, "after"))
    until("the other leads", standby.leads, within=TAKEOVER_SECONDS + 5)
    elapsed = time.monotonic() - killed
    until("what came meanwhile is done", lambda: realised(kube, namespace, "after"))
    acted = time.monotonic() - killed
    print(f"kill -9 of the leader: the other leads after {elapsed:.1f} s and has acted after {acted:.1f} s")
    assert lease(kube)["holderIdentity"] == standby.name
    assert realised(kube, namespace, "before")["metadata"]["generation"] == before["metadata"]["generation"]
    assert condition(group(kube, namespace, "before"), "Ready") == ready
    created = until(
        "the event",
        lambda: [event["count"] for event in kube.events(namespace, "before") if event["reason"] == "RoleCreated"],
    )
    assert created == [1]
    leader.start()
    assert leader.ready()
    assert not leader.leads()


def test_leader_that_is_asked_to_end_hands_over_at_once(
    kube: Kube, namespace: str, replicas: list[OperatorProcess]
) -> None:
    leader, standby = leader_and_standby(replicas)
    transitions = lease(kube)["leaseTransitions"]
    leader.terminate()
    began = time.monotonic()
    until("the other leads", standby.leads, within=10)
    elapsed = time.monotonic() - began
    print(f"SIGTERM of the leader: the other leads after {elapsed:.1f} s")
    assert " released" in leader.logged(), "else the other one waits until it expires"
    kube.apply(rbg(namespace, "after"))
    until("it acts", lambda: realised(kube, namespace, "after"))
    assert lease(kube)["leaseTransitions"] == transitions + 1
    assert leader.ended() == 0


def test_leader_that_was_frozen_finds_that_it_leads_no_more(
    kube: Kube, namespace: str, replicas: list[OperatorProcess]
) -> None:
    leader, standby = leader_and_standby(replicas)
    leader.freeze()
    until("the other leads", standby.leads, within=TAKEOVER_SECONDS + 5)
    leader.thaw()
    until("it no longer leads", lambda: not leader.leads(), within=10)
    assert standby.leads()
    assert lease(kube)["holderIdentity"] == standby.name
    kube.apply(rbg(namespace, "after"))
    until("the new leader acts", lambda: realised(kube, namespace, "after"))


def test_leader_cut_off_stops_before_another_starts_and_returns(
    plane: ControlPlane, kube: Kube, namespace: str, tmp_path: Path
) -> None:
    server = urlsplit(plane.server).port
    assert server is not None
    with closing(TcpProxy(lambda: [server])) as network:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(plane.kubeconfig_for(OPERATOR).read_text().replace(f":{server}", f":{network.port}"))
        operator = OperatorProcess(kubeconfig)
        operator.start()
        try:
            until("it leads", operator.leads, within=40)  # the Lease of those before may have to run out
            network.cut()
            cut = time.monotonic()
            until("it stops acting", lambda: not operator.leads(), within=15)
            elapsed = time.monotonic() - cut
            print(f"cut off: it stops acting after {elapsed:.1f} s")
            assert elapsed < float(lease(kube)["leaseDurationSeconds"])
            assert operator.ready(), "it is not restarted for that"
            network.mend()
            until("it leads again", operator.leads, within=15)
            kube.apply(rbg(namespace, "after"))
            until("it acts", lambda: realised(kube, namespace, "after"), within=40)
        finally:
            operator.end()
            print(operator.logged())


def group(kube: Kube, namespace: str, name: str) -> Any:
    return kube.get(f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/{name}") or {}

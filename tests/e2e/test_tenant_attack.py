"""A user who may edit one namespace and nothing else attacks: the operator lives, and the neighbours notice nothing.

A minute of it by default; PATIO_TEST_LONG=1 makes it ten. The neighbour's adapters are timed in a quiet run first and
beside the attack then; the ratio is told, not judged, since both share a machine with all of this.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from patio_testing import environment
from patio_testing.environment import (
    ADAPTERS,
    SYSTEM_NAMESPACE,
    Engine,
    deployment,
    log_progress,
    lora_adapter,
    wait_for_adapter,
    wait_for_pods,
)
from patio_testing.kube import Kube, is_ready, until

from .attack import MODES, Attack

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SECONDS = 600.0 if os.environ.get("PATIO_TEST_LONG") == "1" else 60.0
QUIET_ROUNDS = 8
SEED = 20261126
PODS = {"matchLabels": {"app": "quiet"}}
TENANT, NEIGHBOUR = "mallory", "neighbour"
CREDENTIALS = {"ACCESS_KEY": "AKIA-OF-MALLORY", "SECRET_KEY": "a-secret-of-mallory-that-leaves-nowhere"}
NEIGHBOURS = {"ACCESS_KEY": "AKIA-OF-THE-NEIGHBOUR", "SECRET_KEY": "a-secret-of-the-neighbour-that-leaves-nowhere"}


@pytest.fixture(scope="module")
def namespaces(
    kube: Kube, staged: environment.Environment, double: Engine, make_namespace: Callable[[str], str]
) -> tuple[str, str]:
    tenant, neighbour = make_namespace(TENANT), make_namespace(NEIGHBOUR)
    environment.install_patio(kube, staged, log_progress, f"adapters.secrets.namespaces={{{tenant},{neighbour}}}")
    for namespace, values in ((tenant, CREDENTIALS), (neighbour, NEIGHBOURS)):
        metadata = {"name": "bucket", "namespace": namespace}
        kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    kube.kubectl("-n", tenant, "create", "serviceaccount", TENANT)
    subject = f"--serviceaccount={tenant}:{TENANT}"
    kube.kubectl("-n", tenant, "create", "rolebinding", TENANT, "--clusterrole=edit", subject)
    kube.apply(
        deployment(double, neighbour, "quiet", 2), lora_adapter(neighbour, "kept", ADAPTERS["lora-a"], selector=PODS)
    )
    wait_for_pods(kube, neighbour, 2, within=90)
    wait_for_adapter(kube, neighbour, "kept", within=60)
    return tenant, neighbour


def attack_on(kube: Kube, tenant: str, image: str) -> Attack:
    """Return the attack with the user's token."""
    cluster = yaml.safe_load(kube.kubeconfig.read_text())["clusters"][0]["cluster"]
    ca = base64.b64decode(cluster["certificate-authority-data"]).decode()
    token = kube.kubectl("-n", tenant, "create", "token", TENANT, "--duration=2h").strip()
    return Attack(cluster["server"], ca, token, tenant, image, "bucket", SEED)


def seconds_of_a_round(kube: Kube, neighbour: str, number: int) -> float:
    """Declare an adapter, wait until it is Ready, delete it; return how long it took to be Ready."""
    name = f"probe-{number}"
    kube.apply(lora_adapter(neighbour, name, ADAPTERS["lora-b"], selector=PODS))
    began = time.monotonic()
    wait_for_adapter(kube, neighbour, name, within=60)
    seconds = time.monotonic() - began
    kube.kubectl("-n", neighbour, "delete", "lora", name, "--wait=true", "--timeout=240s")
    return seconds


def operator_state(kube: Kube) -> list[tuple[str, int]]:
    """UID and number of restarts of each pod of the operator."""
    return sorted(
        (pod["metadata"]["uid"], sum(status["restartCount"] for status in pod["status"].get("containerStatuses", [])))
        for pod in kube.pods(SYSTEM_NAMESPACE, "app.kubernetes.io/name=patio")
    )


def leadership_changes(kube: Kube) -> int:
    lease = kube.get(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM_NAMESPACE}/leases/patio-operator")
    return int(lease["spec"].get("leaseTransitions") or 0)


def test_user_of_one_namespace_attacks_and_no_neighbour_notices(
    kube: Kube, namespaces: tuple[str, str], double: Engine
) -> None:
    tenant, neighbour = namespaces
    quiet = [seconds_of_a_round(kube, neighbour, number) for number in range(QUIET_ROUNDS)]
    before, changes = operator_state(kube), leadership_changes(kube)
    assert before
    attack = attack_on(kube, tenant, double.container["image"])
    thread = threading.Thread(target=attack.run, args=(SECONDS,), daemon=True)
    thread.start()
    busy: list[float] = []
    unready = 0
    try:
        for number in itertools.count(QUIET_ROUNDS):
            if not thread.is_alive():
                break
            busy.append(seconds_of_a_round(kube, neighbour, number))
            adapter = kube.lora_adapter(neighbour, "kept")
            unready += adapter is None or not is_ready(adapter)
    finally:
        attack.stop()
        thread.join(120)
    log_progress(
        f"attack of {SECONDS:.0f} s: {sum(attack.answers.values())} requests: {dict(sorted(attack.answers.items()))}"
    )
    ratio = statistics.median(busy) / statistics.median(quiet)
    log_progress(
        f"the neighbour's new adapters were Ready after {statistics.median(quiet):.2f} s (quiet, {len(quiet)}) and "
        f"{statistics.median(busy):.2f} s (attacked, {len(busy)}; at most {max(busy):.2f} s): x{ratio:.1f}"
    )
    assert attack.problem is None
    assert sum(attack.answers.values()) > 500
    assert operator_state(kube) == before, "a replica of the operator restarted or was replaced"
    assert leadership_changes(kube) == changes, "the leader lost its Lease"
    assert unready == 0, "the neighbour's adapter was not Ready for a moment"


def test_no_credential_reached_the_false_sidecars(kube: Kube, namespaces: tuple[str, str]) -> None:
    tenant, _ = namespaces
    requests = 0
    for mode in MODES:
        records = until(
            f"the records of false-{mode}",
            lambda mode=mode: kube.to_pod("GET", tenant, f"false-{mode}", 9092, "/recorded"),
            lambda answer: answer.status_code == 200,
        ).json()
        requests += len(records)
        for value in (*CREDENTIALS.values(), *NEIGHBOURS.values()):
            assert not [record for record in records if value in record], f"{mode} was sent a credential"
        assert not [record for record in records if "bearer" in record.lower()], f"{mode} was sent a token"
    log_progress(f"the false sidecars were asked {requests} times")
    seen: list[Any] = [
        kube.kubectl("-n", namespace, "get", "pods,events,lora,services", "-o", "json") for namespace in namespaces
    ]
    for pod in kube.pods(SYSTEM_NAMESPACE, "app.kubernetes.io/name=patio"):
        seen.append(kube.kubectl("-n", SYSTEM_NAMESPACE, "logs", pod["metadata"]["name"]))
    text = json.dumps(seen)
    for value in (*CREDENTIALS.values(), *NEIGHBOURS.values()):
        assert value not in text


def test_operator_works_as_before_after_the_attack(kube: Kube, namespaces: tuple[str, str], double: Engine) -> None:
    tenant, neighbour = namespaces
    kube.kubectl("delete", "namespace", tenant, "--wait=true", "--timeout=240s")
    seconds_of_a_round(kube, neighbour, 10_000)
    mode = kube.kubectl("-n", SYSTEM_NAMESPACE, "logs", "deployment/patio-operator")
    assert "observ" not in mode.lower() or "manage" in mode.lower(), "signs of a tenant made the operator observe"
    kube.apply(environment.group(double, neighbour, "after"))
    until("the group is realised", lambda: kube.pods(neighbour, "rbg.workloads.x-k8s.io/group-name=after"))

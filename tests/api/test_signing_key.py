"""The operator's signing key on a real API server: made once, kept, replaced when asked for, given to pods."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from e2e_cluster.control_plane import ControlPlane
from patio_operator.security.signing_keys import SigningKey, decode
from patio_testing.kube import Kube
from patio_testing.operator_process import OPERATOR, OperatorProcess

pytestmark = pytest.mark.api

NAMESPACE = "patio-system"
SECRET = "patio-signing-key"


def secret(kube: Kube) -> Any:
    return kube.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}")


def signing_key(kube: Kube) -> SigningKey:
    key = decode(secret(kube)["data"])
    assert key is not None
    return key


@pytest.fixture
def replicas(kube: Kube, plane: ControlPlane) -> Iterator[list[OperatorProcess]]:
    """Two operators, not started, and no Secret."""
    kube.kubectl("-n", NAMESPACE, "delete", "secret", SECRET, "--ignore-not-found")
    processes = [OperatorProcess(plane.kubeconfig_for(OPERATOR), f"patio-operator-{letter}") for letter in "ab"]
    yield processes
    for process in processes:
        if process.launched:
            process.stop()
        print(process.logged())
        assert "forbidden" not in process.logged()


def test_two_replicas_make_one_key_and_it_survives_their_restart(kube: Kube, replicas: list[OperatorProcess]) -> None:
    for replica in replicas:
        replica.launch()
    for replica in replicas:
        replica.wait()
    stored = secret(kube)
    assert sum(replica.logged().count("signing key") for replica in replicas) == 1, "one made it, the other took it"
    for replica in replicas:
        replica.kill()
        replica.start()
    assert secret(kube) == stored


def test_key_rotated_on_request_endorses_its_successor(kube: Kube, replicas: list[OperatorProcess]) -> None:
    first, second = replicas
    first.start()
    old = signing_key(kube)
    kube.kubectl("-n", NAMESPACE, "annotate", "secret", SECRET, "patio.dev/rotate=now")
    second.start()  # which looks at its start; one that runs looks every minute
    new = signing_key(kube)
    assert new.public != old.public
    assert len(new.endorsements) == 1
    assert "patio.dev/rotate" not in (secret(kube)["metadata"].get("annotations") or {})
    assert old.public[:8] in second.logged()
    assert "PRIVATE" not in first.logged() + second.logged()


def test_new_pod_gets_only_the_public_part_of_the_key(kube: Kube, operator: OperatorProcess) -> None:
    pod = {
        "metadata": {"name": "p", "namespace": "default", "labels": {"patio.dev/profile": "patio"}},
        "spec": {"containers": [{"name": "engine", "image": "e", "command": ["vllm", "serve", "m"]}]},
    }
    review = {"apiVersion": "admission.k8s.io/v1", "request": {"uid": "1", "namespace": "default", "object": pod}}
    answers = [
        httpx.post(f"https://127.0.0.1:{operator.webhook_port}/mutate/pods", json=review, verify=False).json()
        for _ in range(2)
    ]
    patches = [base64.b64decode(answer["response"]["patch"]).decode() for answer in answers]
    assert all(signing_key(kube).public in patch for patch in patches)
    assert "PRIVATE" not in patches[0]
    proofs = [hook_of(json.loads(patch))["httpHeaders"][0]["value"] for patch in patches]
    assert proofs[0] != proofs[1], "each pod has a word of its own"


def hook_of(patch: list[Any]) -> Any:
    (lifecycle,) = [operation["value"] for operation in patch if operation["path"] == "/spec/containers/0/lifecycle"]
    return lifecycle["preStop"]["httpGet"]

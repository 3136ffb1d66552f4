"""A new source is rolled out under load: fetched everywhere first, then switched pod by pod behind the Service.

The files come from a real S3 server on the node; the clients are in a pod and go through `service: true`. Nobody may
get an error, nor an answer that neither the old nor the new weights give.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import e2e_cluster
from e2e_engine import model
from e2e_engine.__main__ import model_directory
from patio_testing import environment
from patio_testing.environment import deployment, log_progress, lora_adapter, wait_for_adapter, wait_for_pods
from patio_testing.kube import Kube, condition, is_ready, until
from patio_testing.load_client import load, start_clients
from patio_testing.sidecar.download_sources import ACCESS_KEY, SECRET_KEY, S3Server, s3_server

pytestmark = pytest.mark.cluster

PODS = 3
TOKENS = 12
ROUTED = {"matchLabels": {"app": "routed"}}
BUCKET = "adapters"
SERVICE = "http://expert"


@pytest.fixture(scope="module")
def s3(kube: Kube) -> Iterator[S3Server]:
    """An S3 server that the pods can reach, with a folder for each set of weights."""
    folders: dict[str, Path] = {
        adapter_name: model_directory() / "adapters" / adapter_name for adapter_name in model.ADAPTERS
    }
    folders["rank-32"] = model_directory() / "adapters" / "bad" / "rank-32"
    with s3_server(e2e_cluster.connect(report=log_progress).machine_address) as server:
        for name, folder in folders.items():
            server.put(BUCKET, {f"{name}/{file.name}": file.read_bytes() for file in folder.iterdir()})
        yield server


@pytest.fixture(scope="module")
def namespace(
    kube: Kube, staged: environment.Environment, s3: S3Server, make_namespace: Callable[[str], str]
) -> Iterator[str]:
    """A namespace with three engines that take their time for a token, and an adapter with a Service."""
    name = make_namespace("rollout")
    environment.install_patio(kube, staged, log_progress, f"adapters.secrets.namespaces={{{name}}}")
    engine = environment.double(tokens_per_second="20")
    secret = {"ACCESS_KEY": ACCESS_KEY, "SECRET_KEY": SECRET_KEY}
    metadata = {"name": "s3", "namespace": name}
    start_clients(kube, name)
    kube.apply(
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": secret},
        deployment(engine, name, "routed", PODS),
        routed(name, s3, "lora-a"),
    )
    wait_for_pods(kube, name, PODS + 1, within=90)
    wait_for_adapter(kube, name, "expert", within=60)
    yield name
    environment.install_patio(kube, staged, log_progress)


def routed(namespace: str, s3: S3Server, folder: str) -> dict[str, Any]:
    """Return the LoraAdapter with its source in a folder."""
    source = {"uri": f"s3://{BUCKET}/{folder}", "endpoint": s3.url, "secretRef": {"name": "s3"}, "allowPlainHTTP": True}
    return lora_adapter(namespace, "expert", "", selector=ROUTED, service=True, source=source)


def answer_of_each(kube: Kube, namespace: str) -> dict[str, str]:
    """Return what each engine answers through the adapter."""
    pods = [pod["metadata"]["name"] for pod in kube.pods(namespace, "app=routed")]
    return {pod: kube.complete(namespace, pod, "expert", environment.PROMPT, TOKENS) for pod in pods}


def test_adapter_came_from_the_bucket_to_every_pod(kube: Kube, namespace: str, s3: S3Server) -> None:
    pods = kube.pods(namespace, "app=routed")
    assert {kube.models(namespace, pod["metadata"]["name"])["expert"].split("/")[-2][:3] for pod in pods} == {"s3-"}
    assert len(set(answer_of_each(kube, namespace).values())) == 1


def test_new_source_under_load_gives_no_error_or_mixed_answer(kube: Kube, namespace: str, s3: S3Server) -> None:
    (old,) = set(answer_of_each(kube, namespace).values())
    with load(kube, namespace, SERVICE, model="expert", tokens=(TOKENS, TOKENS), clients=12) as answers:
        until("the load arrives", lambda: any_running(kube, namespace), within=10)
        kube.apply(routed(namespace, s3, "lora-b"))
        rolled = until(
            "the new source everywhere",
            lambda: kube.lora_adapter(namespace, "expert") or {},
            lambda adapter: (
                adapter["status"]["observedGeneration"] == adapter["metadata"]["generation"]
                and is_ready(adapter)
                and adapter["status"]["updatedReplicas"] == PODS
            ),
            within=40,
        )
    (new,) = set(answer_of_each(kube, namespace).values())
    assert new != old
    assert rolled["status"]["readyReplicas"] == PODS
    log_progress(f"rollout over {PODS} pods under load: {len(answers.all)} requests, {dict(answers.outcomes)}")
    assert set(answers.outcomes) == {"length"}, answers.outcomes
    assert answers.texts == {old, new}, "every answer is the old weights' or the new ones'"


def test_bad_source_stops_at_first_pod_and_old_weights_answer(kube: Kube, namespace: str, s3: S3Server) -> None:
    (old,) = set(answer_of_each(kube, namespace).values())
    with load(kube, namespace, SERVICE, model="expert", tokens=(TOKENS, TOKENS), clients=12) as answers:
        kube.apply(routed(namespace, s3, "rank-32"))
        stopped = until(
            "the rollout stopped",
            lambda: kube.lora_adapter(namespace, "expert") or {},
            lambda adapter: condition(adapter, "Degraded").get("status") == "True",
            within=20,
        )
    assert stopped["status"]["failedReplicas"] == 1
    assert "rank" in condition(stopped, "Degraded")["message"]
    assert set(answers.outcomes) == {"length"}, answers.outcomes
    assert answers.texts == {old}
    kube.apply(routed(namespace, s3, "lora-a"))
    wait_for_adapter(kube, namespace, "expert", within=30)
    assert set(answer_of_each(kube, namespace).values()) != {old}


def test_secret_is_in_no_object_and_no_log(kube: Kube, namespace: str) -> None:
    seen = kube.kubectl("-n", namespace, "get", "pods,events,lora,services,replicasets", "-o", "json")
    for pod in kube.pods(namespace, "app=routed"):
        seen += kube.kubectl("-n", namespace, "logs", pod["metadata"]["name"], "-c", "patio")
    seen += kube.kubectl("-n", environment.SYSTEM_NAMESPACE, "logs", "deployment/patio-operator")
    assert SECRET_KEY not in seen
    lora = json.loads(kube.kubectl("-n", namespace, "get", "lora", "expert", "-o", "json"))
    assert json.loads(kube.kubectl("-n", namespace, "get", "service", "expert", "-o", "json"))["spec"]["selector"] == {
        "lora.patio.dev/expert": "loaded",
        f"owner.lora.patio.dev/{lora['metadata']['uid']}": "expert",
    }


def any_running(kube: Kube, namespace: str) -> bool:
    """Tell whether a request runs on any engine."""
    pods = [pod["metadata"]["name"] for pod in kube.pods(namespace, "app=routed")]
    return any(kube.to_pod("GET", namespace, pod, 8000, "/_double/state").json()["running"] for pod in pods)

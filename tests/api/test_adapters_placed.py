"""LoraAdapters with `replicas` on a real API server: scaled by hand and by an autoscaler, moved when a pod is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine_double.samples import write_adapter
from patio_testing.engine_pods import EnginePod, MakePod, loaded_on, lora_adapter, until_ready
from patio_testing.kube import Kube, until

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]


def scale(kube: Kube, namespace: str, name: str, replicas: int) -> None:
    """Scale as a HorizontalPodAutoscaler does: by the scale subresource."""
    path = f"/apis/patio.dev/v1alpha1/namespaces/{namespace}/loraadapters/{name}/scale"
    patch = json.dumps({"spec": {"replicas": replicas}})
    kube.http.patch(path, content=patch, headers={"content-type": "application/merge-patch+json"}).raise_for_status()


def holders(pods: list[EnginePod], name: str) -> set[str]:
    return {pod.name for pod in pods if name in pod.models()}


def test_scaling_by_kubectl_or_autoscaler_moves_no_loaded_one(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    pods = [engine_pod(name, node) for name, node in (("a", "node-a"), ("b", "node-a"), ("c", "node-b"))]
    kube.apply(lora_adapter(namespace, "everywhere", adapter_path))
    until_ready(kube, namespace, "everywhere", 3)  # by now the operator knows all three
    kube.apply(lora_adapter(namespace, "sql", adapter_path, replicas=1))
    first = loaded_on(until_ready(kube, namespace, "sql", 1))
    kube.kubectl("-n", namespace, "scale", "loraadapter/sql", "--replicas=2")
    two = loaded_on(until_ready(kube, namespace, "sql", 2))
    assert first < two
    assert "c" in two, "one on each node"
    scale(kube, namespace, "sql", 3)
    until_ready(kube, namespace, "sql", 3)
    scale(kube, namespace, "sql", 1)
    last = loaded_on(until_ready(kube, namespace, "sql", 1))
    until("the others have unloaded it", lambda: holders(pods, "sql"), lambda found: found == last, within=20)
    path = f"/apis/patio.dev/v1alpha1/namespaces/{namespace}/loraadapters/sql/scale"
    seen = kube.get(path)
    assert (seen["spec"]["replicas"], seen["status"]["replicas"]) == (1, 1)
    uid = seen["metadata"]["uid"]
    assert seen["status"]["selector"] == f"lora.patio.dev/sql=loaded,owner.lora.patio.dev/{uid}=sql"
    until(
        "labels say the same", lambda: {pod.name for pod in pods if "sql" in pod.marks()}, lambda found: found == last
    )


def test_pod_lost_moves_only_what_it_had(kube: Kube, namespace: str, engine_pod: MakePod, tmp_path: Path) -> None:
    pods = {name: engine_pod(name) for name in ("a", "b", "c")}
    kube.apply(lora_adapter(namespace, "everywhere", str(write_adapter(tmp_path / "everywhere"))))
    until_ready(kube, namespace, "everywhere", 3)
    for name in ("one", "two"):
        kube.apply(lora_adapter(namespace, name, str(write_adapter(tmp_path / name)), replicas=1))
    before = {name: loaded_on(until_ready(kube, namespace, name, 1)) for name in ("one", "two")}
    (lost,) = before["one"]
    assert before["two"] != before["one"], "spread over the pods"
    pods.pop(lost).remove()
    after = until(
        "moved",
        lambda: loaded_on(until_ready(kube, namespace, "one", 1)),
        lambda found: lost not in found,
        within=20,
    )
    assert after < set(pods)
    assert loaded_on(until_ready(kube, namespace, "two", 1)) == before["two"]


def test_adapter_that_all_pods_reject_is_failed_with_one_event(
    kube: Kube, namespace: str, engine_pod: MakePod, tmp_path: Path
) -> None:
    engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", f"{tmp_path}/not-there", replicas=1))
    adapter = until(
        "all tried, and said so",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: (adapter.get("status") or {}).get("failedReplicas", 0) == 1,
        within=30,
    )
    assert adapter["status"]["instances"][0]["reason"] == "AdapterNotFound"
    event_counts = until(
        "its event",
        lambda: [event["count"] for event in kube.events(namespace, "sql") if event["reason"] == "AdapterNotFound"],
    )
    assert event_counts == [1]

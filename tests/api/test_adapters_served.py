"""The Service of a LoraAdapter, on a real API server: made, put right, taken away, and never over somebody else's."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patio_testing.engine_pods import MakePod, lora_adapter, until_ready
from patio_testing.kube import Kube, condition, until

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("operator")]


def service(kube: Kube, namespace: str, name: str) -> Any:
    return kube.get(f"/api/v1/namespaces/{namespace}/services/{name}")


def patch(kube: Kube, namespace: str, resource: str, change: dict[str, Any]) -> None:
    kube.kubectl("-n", namespace, "patch", resource, "--type=merge", "-p", json.dumps(change))


def test_service_selects_pods_with_adapter_and_goes_with_spec(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    """The Service selects the pods that have the adapter, and is deleted when the spec no longer asks for it."""
    pod = engine_pod("a")
    kube.apply(lora_adapter(namespace, "sql", adapter_path, adapterName="sql-expert", service=True))
    adapter = until_ready(kube, namespace, "sql", 1)
    made_service = until("the Service", lambda: service(kube, namespace, "sql"))
    (port,) = made_service["spec"]["ports"]
    assert (port["name"], port["port"], port["targetPort"]) == ("http", 80, pod.engine_port)
    (owner,) = made_service["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["controller"]) == (adapter["metadata"]["uid"], True)
    (selected,) = kube.pods(
        namespace, ",".join(f"{key}={value}" for key, value in made_service["spec"]["selector"].items())
    )
    assert selected["metadata"]["name"] == "a"
    patch(kube, namespace, "service/sql", {"spec": {"selector": {"app": "another"}}})
    until("put right", lambda: service(kube, namespace, "sql")["spec"]["selector"] == made_service["spec"]["selector"])
    kube.kubectl("-n", namespace, "delete", "service", "sql")
    until("made again", lambda: service(kube, namespace, "sql"))
    patch(kube, namespace, "loraadapter/sql", {"spec": {"service": False}})
    until("gone", lambda: service(kube, namespace, "sql") is None)


def test_service_of_another_owner_is_left_alone_and_reported(
    kube: Kube, namespace: str, engine_pod: MakePod, adapter_path: str
) -> None:
    engine_pod("a")
    ports = [{"name": "mine", "port": 5432}]
    metadata = {"name": "sql", "namespace": namespace}
    kube.apply({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}})
    before = service(kube, namespace, "sql")
    kube.apply(lora_adapter(namespace, "sql", adapter_path, service=True))
    adapter = until(
        "said",
        lambda: kube.lora_adapter(namespace, "sql") or {},
        lambda adapter: condition(adapter, "Degraded").get("reason") == "ServiceNameTaken",
        within=30,
    )
    assert condition(adapter, "Ready")["status"] == "True", "the adapter itself is where it should be"
    assert service(kube, namespace, "sql") == before
    event_counts = until(
        "its event",
        lambda: [event["count"] for event in kube.events(namespace, "sql") if event["reason"] == "ServiceNameTaken"],
    )
    assert event_counts == [1]
    patch(kube, namespace, "loraadapter/sql", {"spec": {"service": False}})
    until(
        "nothing wrong", lambda: condition(kube.lora_adapter(namespace, "sql") or {}, "Degraded")["status"] == "False"
    )
    assert service(kube, namespace, "sql") == before

"""LoraAdapters that would take each other's name: refused when they are applied, with both of them named."""

from __future__ import annotations

from typing import Any

import pytest

from patio_testing.kube import Kube, KubectlError

pytestmark = [pytest.mark.api, pytest.mark.usefixtures("webhooks")]

Object = dict[str, Any]


def adapter(namespace: str, name: str, **spec: Any) -> Object:
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "adapterName": "sql",
            "source": {"uri": "hf://org/sql"},
            "selector": {"matchLabels": {"app": "vllm"}},
        }
        | spec,
    }


def refusal(kube: Kube, document: Object) -> str:
    with pytest.raises(KubectlError) as failure:
        kube.apply(document)
    print(failure.value)
    return str(failure.value)


def test_second_adapter_of_one_name_is_rejected_naming_the_first(kube: Kube, namespace: str) -> None:
    kube.apply(adapter(namespace, "first"))
    message = refusal(kube, adapter(namespace, "second"))
    assert 'The LoraAdapter "second" is invalid: spec.adapterName' in message
    assert "LoraAdapter 'second' and LoraAdapter 'first' would both serve the name 'sql'" in message
    assert "both select the same pods" in message


def test_role_and_a_selector_of_one_pod_are_rejected(kube: Kube, namespace: str) -> None:
    labels = {
        "patio.dev/injected": "true",
        "tier": "gold",
        "rbg.workloads.x-k8s.io/group-name": "g",
        "rbg.workloads.x-k8s.io/role-name": "worker",
    }
    kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "g-worker-0", "namespace": namespace, "labels": labels},
            "spec": {"containers": [{"name": "engine", "image": "engine"}]},
        }
    )
    role = {"group": "g", "role": "worker"}
    kube.apply(
        adapter(namespace, "of-role") | {"spec": {"adapterName": "sql", "source": {"uri": "org/sql"}, "roleRef": role}}
    )
    message = refusal(kube, adapter(namespace, "by-label", selector={"matchLabels": {"tier": "gold"}}))
    assert "both select pod 'g-worker-0'" in message


def test_other_pods_other_names_and_other_namespaces_are_fine(kube: Kube, namespace: str) -> None:
    kube.apply(adapter(namespace, "first"))
    kube.apply(adapter(namespace, "other-pods", selector={"matchLabels": {"app": "sglang"}}))
    kube.apply(adapter(namespace, "other-name", adapterName="python"))
    kube.apply(adapter("default", "second"))
    kube.kubectl("delete", "loraadapter", "second", "-n", "default")


def test_change_is_rejected_only_if_it_would_make_a_conflict(kube: Kube, namespace: str) -> None:
    kube.apply(adapter(namespace, "first"))
    kube.apply(adapter(namespace, "second", selector={"matchLabels": {"app": "sglang"}}))
    assert "'first'" in refusal(kube, adapter(namespace, "second"))
    kube.apply(adapter(namespace, "second", selector={"matchLabels": {"app": "sglang"}}, replicas=2, pinned=True))
    kube.kubectl("scale", "loraadapter", "second", "--replicas=3", "-n", namespace)


def test_name_that_sidecars_use_themselves_is_rejected(kube: Kube, namespace: str) -> None:
    message = refusal(kube, adapter(namespace, "any", adapterName="patio-trial-0123"))
    assert "spec.adapterName" in message
    assert "reserved for sidecars" in message


def test_name_is_free_again_once_its_owner_is_deleted(kube: Kube, namespace: str) -> None:
    kube.apply(adapter(namespace, "first"))
    kube.kubectl("delete", "loraadapter", "first", "-n", namespace)
    kube.apply(adapter(namespace, "second"))

"""What is kept of pods and LoraAdapters: no more than a bound, whatever their owners write."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from patio_api import labels
from patio_operator.groups.caches import decode_group
from patio_operator.loraadapters.caches import LONGEST_SPEC, adapters_in, decode_adapter
from patio_operator.pods.injected_pod import LONGEST_NAMES, decode_pod

Object = dict[str, Any]

ADAPTER: Object = {
    "metadata": {
        "name": "sql",
        "namespace": "team",
        "uid": "u",
        "resourceVersion": "5",
        "annotations": {"last-applied": "x" * 200_000},
        "labels": {"a": "b"},
        "managedFields": [{"manager": "x"}],
    },
    "spec": {"source": {"uri": "file:///a"}, "selector": {"matchLabels": {"app": "vllm"}}},
}


def pod(labels_: dict[str, str], **annotations: str) -> Object:
    metadata = {"namespace": "team", "name": "p", "uid": "u", "labels": labels_, "annotations": annotations}
    return {"metadata": metadata, "spec": {}, "status": {}}


def test_nothing_is_kept_of_a_loraadapters_annotations() -> None:
    kept = decode_adapter(ADAPTER).adapter
    assert (kept.metadata.annotations, kept.metadata.labels) == ({}, {})
    assert kept.spec.source.uri == "file:///a"


def test_loraadapter_larger_than_the_bound_is_left_out() -> None:
    large = copy.deepcopy(ADAPTER)
    large["spec"]["selector"]["matchLabels"] = {f"key-{n}": "value" for n in range(LONGEST_SPEC // 20)}
    with pytest.raises(ValueError, match="more than"):
        decode_adapter(large)
    assert [adapter.metadata.name for adapter in adapters_in([large, ADAPTER, {"metadata": {"name": "odd"}}])] == [
        "sql"
    ]


def test_pod_with_labels_beyond_the_bound_is_left_out() -> None:
    assert decode_pod(pod({"k": "v" * (labels.LONGEST_LABELS - 1)}))
    with pytest.raises(ValueError, match="labels"):
        decode_pod(pod({"k": "v" * labels.LONGEST_LABELS}))


def test_pod_with_a_thousand_adapters_is_kept() -> None:
    uid = "00000000-0000-0000-0000-{:012}"
    names = [f"a-name-as-long-as-a-label-can-take-{n:026}" for n in range(1000)]
    shown = [labels.adapter_labels(name, uid.format(n)) for n, name in enumerate(names)]
    kept = decode_pod(pod({key: value for each in shown for key, value in each.items()}))
    assert kept.pod.serving == frozenset(names)
    assert len(kept.pod.owners) == 1000


def test_pods_annotation_beyond_the_bound_is_not_kept() -> None:
    assert decode_pod(pod({}, **{labels.ADAPTER_NAMES: "x" * (LONGEST_NAMES + 1)})).names == ""
    assert decode_pod(pod({}, **{labels.ADAPTER_NAMES: "{}"})).names == "{}"


def test_group_differs_only_by_what_a_user_changed() -> None:
    metadata = {"name": "g", "namespace": "team", "uid": "u", "generation": 1, "resourceVersion": "5"}
    decoded = decode_group({"metadata": metadata})
    assert decode_group({"metadata": metadata | {"resourceVersion": "6"}}) == decoded
    for change in ({"generation": 2}, {"uid": "v"}, {"annotations": {"a": "b"}}, {"deletionTimestamp": "now"}):
        assert decode_group({"metadata": metadata | change}) != decoded

"""Reviews of LoraAdapters where no API server can be asked: nobody is held up, and what need not be asked is not."""

from __future__ import annotations

from typing import Any

from patio_operator.cluster.api import Cluster
from patio_operator.webhooks import loraadapters

Object = dict[str, Any]


def adapter(app: str = "vllm", **metadata: Any) -> Object:
    return {
        "metadata": {"name": "sql", "namespace": "team"} | metadata,
        "spec": {"source": {"uri": "hf://org/sql"}, "selector": {"matchLabels": {"app": app}}},
    }


async def answer(cluster: Cluster, new: Object, old: Object | None = None) -> Object:
    request = {"uid": "7", "namespace": "team", "object": new, "oldObject": old}
    review = {"apiVersion": "admission.k8s.io/v1", "request": request}
    response: Object = (await loraadapters.answer(cluster, review))["response"]
    assert response["uid"] == "7"
    return response


async def test_what_cannot_be_compared_is_let_through_with_a_warning(unreachable: Cluster) -> None:
    for old in (None, adapter("other")):
        response = await answer(unreachable, adapter(), old)
        assert response["allowed"]
        assert "not compared" in response["warnings"][0]


async def test_only_what_changes_what_is_wanted_is_compared(unreachable: Cluster) -> None:
    moved = adapter()
    moved["spec"]["source"] = {"uri": "s3://bucket/sql"}
    for new in (adapter(labels={"a": "b"}), moved, adapter("other", deletionTimestamp="2026-11-21T12:00:00Z")):
        assert await answer(unreachable, new, adapter()) == {"uid": "7", "allowed": True}

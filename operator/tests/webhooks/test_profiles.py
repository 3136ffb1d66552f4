"""Reviews of profiles where no API server can be asked: what is let through, and what is wrong all the same."""

from __future__ import annotations

from typing import Any

from patio_kube.client import KubeClient
from patio_operator.webhooks import profiles

Object = dict[str, Any]

SIDE = {"name": "side", "image": "side:1", "ports": [{"containerPort": 1}]}


def profile(*containers: Object, **metadata: Any) -> Object:
    return {
        "metadata": {"name": "p"} | metadata,
        "spec": {"updateStrategy": "NoUpdate", "containers": list(containers)},
    }


async def answer(cluster: KubeClient, new: Object, old: Object | None = None) -> Object:
    request = {"uid": "7", "object": new, "oldObject": old}
    review = {"apiVersion": "admission.k8s.io/v1", "request": request}
    response: Object = (await profiles.answer(cluster, "patio-system", review)).review["response"]
    assert response["uid"] == "7"
    return response


async def test_profile_that_cannot_be_tried_is_admitted_with_a_warning(unreachable: KubeClient) -> None:
    response = await answer(unreachable, profile(SIDE))
    assert response["allowed"]
    assert "dry run was not possible" in response["warnings"][0]


async def test_what_needs_no_api_server_is_rejected_without_one(unreachable: KubeClient) -> None:
    response = await answer(unreachable, profile(SIDE, SIDE | {"name": "other"}))
    assert not response["allowed"]
    (cause,) = response["status"]["details"]["causes"]
    assert cause["field"] == "spec.containers[1].ports[0].containerPort"
    odd = profile(SIDE)
    odd["spec"]["updateStrategy"] = "Sometimes"
    response = await answer(unreachable, odd)
    assert response["status"]["details"]["causes"][0]["field"] == "spec.updateStrategy"


async def test_only_what_changes_is_tried(unreachable: KubeClient) -> None:
    wrong = profile(SIDE, SIDE | {"name": "other"})
    assert await answer(unreachable, wrong | {"metadata": {"name": "p", "labels": {"a": "b"}}}, wrong) == {
        "uid": "7",
        "allowed": True,
    }
    going = profile(SIDE, SIDE | {"name": "other"}, deletionTimestamp="2026-11-21T12:00:00Z", finalizers=["x"])
    assert (await answer(unreachable, going, profile(SIDE)))["allowed"]

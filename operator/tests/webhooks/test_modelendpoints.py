"""Reviews of ModelEndpoints: what is rejected, with its field, and what is only warned of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from patio_operator.modelendpoints.planner.snapshot import Claim
from patio_operator.webhooks.modelendpoints import answer

Object = dict[str, Any]
OLDER = Claim("other/qwen", ("qwen",), datetime(2026, 11, 1, tzinfo=UTC))
WRONG: Object = {"roles": [{"type": "server", "args": ["--port=1", "--model=x"]}]}


def endpoint(metadata: Object | None = None, **spec: Any) -> Object:
    named = {"name": "qwen", "creationTimestamp": "2026-11-27T10:00:00Z"}
    return {"metadata": named | (metadata or {}), "spec": {"model": {"uri": "hf://Qwen/Qwen3-8B"}} | spec}


def reviewed(new: Object, old: Object | None = None, *claims: Claim) -> Object:
    request = {"uid": "7", "namespace": "team", "object": new, "oldObject": old}
    decision = answer(lambda key, names: claims, {"apiVersion": "admission.k8s.io/v1", "request": request})
    response: Object = decision.review["response"]
    assert response["uid"] == "7"
    return response


def test_what_is_right_is_let_through() -> None:
    assert reviewed(endpoint()) == {"uid": "7", "allowed": True}


def test_every_problem_is_rejected_with_its_field() -> None:
    response = reviewed(endpoint(**WRONG))
    assert not response["allowed"]
    causes = response["status"]["details"]["causes"]
    assert [cause["field"] for cause in causes] == ["spec.roles[0].args", "spec.roles[0].args"]
    assert "--port is Patio's: remove it" in response["status"]["message"]


def test_object_that_cannot_be_read_is_rejected() -> None:
    response = reviewed(endpoint(queue={"timeout": "soon"}))
    assert response["status"]["details"]["causes"][0]["field"] == "spec.queue.timeout"


def test_only_new_problems_of_a_change_are_rejected() -> None:
    scaled = endpoint(**WRONG, workers={"replicas": 1})
    assert reviewed(scaled, endpoint(**WRONG))["allowed"]
    assert not reviewed(endpoint(**WRONG, workers={"min": 3}), endpoint(**WRONG))["allowed"]


def test_object_that_goes_is_let_through() -> None:
    assert reviewed(endpoint({"deletionTimestamp": "2026-11-27T11:00:00Z"}, **WRONG))["allowed"]


def test_name_of_an_older_endpoint_is_warned_of() -> None:
    response = reviewed(endpoint(), None, OLDER)
    assert response["allowed"]
    assert response["warnings"] == ["the name 'qwen' is that of the older ModelEndpoint other/qwen"]

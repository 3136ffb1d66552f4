"""The conversion webhook's answers, and what keeps the API server able to ask."""

from __future__ import annotations

import base64
from typing import Any

from patio_operator.webhooks import convert, crd_bundle

GROUP = {
    "apiVersion": "workloads.x-k8s.io/v1alpha1",
    "kind": "RoleBasedGroup",
    "metadata": {"name": "g"},
    "spec": {"roles": [{"name": "r", "template": {"spec": {"containers": [{"name": "c"}]}}}]},
}


def review(version: str) -> dict[str, Any]:
    request = {"uid": "u", "desiredAPIVersion": version, "objects": [GROUP]}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


def test_objects_are_converted_to_the_version_that_is_wanted() -> None:
    answered = convert.answer(review("workloads.x-k8s.io/v1alpha2"))
    assert (answered["apiVersion"], answered["kind"]) == ("apiextensions.k8s.io/v1", "ConversionReview")
    response = answered["response"]
    assert (response["uid"], response["result"]) == ("u", {"status": "Success"})
    assert "standalonePattern" in response["convertedObjects"][0]["spec"]["roles"][0]


def test_a_version_that_is_not_known_is_a_failure_in_words() -> None:
    response = convert.answer(review("workloads.x-k8s.io/v9"))["response"]
    assert response["convertedObjects"] == []
    assert response["result"]["status"] == "Failure"
    assert "v9" in response["result"]["message"]


def crd(**client: Any) -> dict[str, Any]:
    service = {"namespace": "patio-system", "name": "patio-webhook", "path": "/convert", "port": 443}
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": {"service": service} | client}}
    return {"metadata": {"resourceVersion": "7"}, "spec": {"conversion": conversion}}


RIGHT = {"caBundle": base64.b64encode(b"ca").decode()}


def test_the_ca_and_the_namespace_of_a_fresh_crd_are_filled_in() -> None:
    changes = crd_bundle.correction(crd(), "patio-webhook", "elsewhere", b"ca")
    where = "/spec/conversion/webhook/clientConfig"
    assert changes == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": f"{where}/caBundle", "value": "Y2E="},
        {"op": "add", "path": f"{where}/service/namespace", "value": "elsewhere"},
    ]


def test_a_crd_that_is_right_is_left_alone() -> None:
    assert crd_bundle.correction(crd(**RIGHT), "patio-webhook", "patio-system", b"ca") == []


def test_a_crd_that_somebody_else_converts_for_is_left_alone() -> None:
    theirs = crd(service={"namespace": "rbgs-system", "name": "rbgs-webhook-service", "path": "/convert"})
    assert crd_bundle.correction(theirs, "patio-webhook", "patio-system", b"ca") == []
    none = {"metadata": {"resourceVersion": "7"}, "spec": {"conversion": {"strategy": "None"}}}
    assert crd_bundle.correction(none, "patio-webhook", "patio-system", b"ca") == []

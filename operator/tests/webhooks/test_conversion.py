"""The conversion webhook's answers, and what keeps the API server able to ask."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from patio_api.labels import KEPT_COORDINATION
from patio_kube import bodies
from patio_operator.certificates import crd_bundle
from patio_operator.webhooks import conversion

GROUP = {
    "apiVersion": "workloads.x-k8s.io/v1alpha1",
    "kind": "RoleBasedGroup",
    "metadata": {"name": "g"},
    "spec": {"roles": [{"name": "r", "template": {"spec": {"containers": [{"name": "c"}]}}}]},
}


def review(version: str) -> dict[str, Any]:
    request = {"uid": "u", "desiredAPIVersion": version, "objects": [GROUP]}
    return {"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview", "request": request}


async def answer(of: dict[str, Any]) -> Any:
    return json.loads((await conversion.answer(json.dumps(of))).text)


async def test_objects_are_converted_to_the_version_that_is_wanted() -> None:
    answered = await answer(review("workloads.x-k8s.io/v1alpha2"))
    assert (answered["apiVersion"], answered["kind"]) == ("apiextensions.k8s.io/v1", "ConversionReview")
    response = answered["response"]
    assert (response["uid"], response["result"]) == ("u", {"status": "Success"})
    assert "standalonePattern" in response["convertedObjects"][0]["spec"]["roles"][0]


async def test_unknown_version_is_a_failure_with_a_message() -> None:
    response = (await answer(review("workloads.x-k8s.io/v9")))["response"]
    assert response["convertedObjects"] == []
    assert response["result"]["status"] == "Failure"
    assert "v9" in response["result"]["message"]


NESTED = "[" * 5000 + "]" * 5000
NEW = "workloads.x-k8s.io/v1alpha2"
OLD = "workloads.x-k8s.io/v1alpha1"


def in_new(name: str = "g", **annotations: str) -> dict[str, Any]:
    pattern = {"template": {"spec": {"containers": [{"name": "c"}]}}}
    metadata = {"name": name, "namespace": "team", "annotations": annotations}
    roles = [{"name": "r", "replicas": 1, "standalonePattern": pattern}]
    return {"apiVersion": NEW, "kind": "RoleBasedGroup", "metadata": metadata, "spec": {"roles": roles}}


async def converted(version: str, *objects: str) -> list[str]:
    request = f'{{"uid": "u", "desiredAPIVersion": "{version}", "objects": [{", ".join(objects)}]}}'
    text = (await conversion.answer(f'{{"apiVersion": "apiextensions.k8s.io/v1", "request": {request}}}')).text
    answered = bodies.Items(text, "response", "convertedObjects")
    found = [text[start:end] for _, start, end in answered.spans()]
    assert answered.rest["response"]["result"] == {"status": "Success"}
    return found


async def test_nested_annotations_leave_a_list_whole() -> None:
    bad = in_new("bad", **{"conversion.patio.dev/only-in-v1alpha1": "[" * 100_000, KEPT_COORDINATION: "[" * 2000})
    found = [json.loads(text) for text in await converted(OLD, json.dumps(in_new()), json.dumps(bad))]
    assert [(body["apiVersion"], body["metadata"]["name"]) for body in found] == [(OLD, "g"), (OLD, "bad")]


async def test_group_nested_too_deeply_keeps_every_level() -> None:
    text = json.dumps(in_new()).replace('{"name": "c"}', f'{{"name": "c", "odd": {NESTED}}}')
    (old,) = await converted(OLD, text)
    assert NESTED in old
    assert '"template"' in old
    (new,) = await converted(NEW, old)
    assert NESTED in new
    assert '"standalonePattern"' in new


async def test_part_that_only_one_version_has_may_be_nested_deeply() -> None:
    text = json.dumps(in_new()).replace('"name": "r",', f'"name": "r", "onlyHere": {NESTED},')
    (old,) = await converted(OLD, text)
    (new,) = await converted(NEW, old)
    assert NESTED in new


async def test_one_group_that_cannot_be_converted_is_listed_as_it_is() -> None:
    odd = in_new("odd")
    odd["spec"]["roles"] = "none"
    found = [json.loads(text) for text in await converted(OLD, json.dumps(odd), json.dumps(in_new()))]
    assert found[0] == odd | {"apiVersion": OLD}
    assert "template" in found[1]["spec"]["roles"][0]


async def test_what_cannot_be_converted_is_never_stored() -> None:
    odd = in_new("odd") | {"apiVersion": OLD}
    odd["spec"]["roles"] = "none"
    request = {"uid": "u", "desiredAPIVersion": NEW, "objects": [odd]}
    response = (await answer({"request": request}))["response"]
    assert (response["convertedObjects"], response["result"]["status"]) == ([], "Failure")
    assert "team/odd" in response["result"]["message"]


async def test_long_list_is_converted_in_slices() -> None:
    texts = json.dumps(
        {"request": {"uid": "u", "desiredAPIVersion": OLD, "objects": [in_new(str(n)) for n in range(2000)]}}
    )
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    neighbour = asyncio.create_task(others())
    await conversion.answer(texts)
    neighbour.cancel()
    assert turns > 3


def crd(**client: Any) -> dict[str, Any]:
    service = {"namespace": "patio-system", "name": "patio-webhook", "path": "/convert", "port": 443}
    conversion = {"strategy": "Webhook", "webhook": {"clientConfig": {"service": service} | client}}
    return {"metadata": {"resourceVersion": "7"}, "spec": {"conversion": conversion}}


RIGHT = {"caBundle": base64.b64encode(b"ca").decode()}


def test_ca_and_the_namespace_of_a_fresh_crd_are_filled_in() -> None:
    changes = crd_bundle.correction(crd(), "patio-webhook", "elsewhere", b"ca")
    path = "/spec/conversion/webhook/clientConfig"
    assert changes == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "7"},
        {"op": "add", "path": f"{path}/caBundle", "value": "Y2E="},
        {"op": "add", "path": f"{path}/service/namespace", "value": "elsewhere"},
    ]


def test_crd_that_is_right_is_left_alone() -> None:
    assert crd_bundle.correction(crd(**RIGHT), "patio-webhook", "patio-system", b"ca") == []


def test_crd_converted_by_another_webhook_is_left_alone() -> None:
    foreign = crd(service={"namespace": "rbgs-system", "name": "rbgs-webhook-service", "path": "/convert"})
    assert crd_bundle.correction(foreign, "patio-webhook", "patio-system", b"ca") == []
    none = {"metadata": {"resourceVersion": "7"}, "spec": {"conversion": {"strategy": "None"}}}
    assert crd_bundle.correction(none, "patio-webhook", "patio-system", b"ca") == []

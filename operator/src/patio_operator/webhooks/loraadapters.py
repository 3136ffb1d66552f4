"""Answers the AdmissionReview of a LoraAdapter: refused when another one wants its name on the same pods.

Reads the namespace's LoraAdapters, and its pods where the selections alone do not tell; `placement.clashes` decides.
What cannot be checked is let through with a warning, as it is while no operator answers (`failurePolicy: Ignore`): then
the LoraAdapter's status says `NameTaken`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from patio_operator.api import labels
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.cluster.api import ApiError, Cluster, Object
from patio_operator.cluster.kinds import LORA_ADAPTER, POD
from patio_operator.placement.clashes import Candidate, Clash, clash_on_a_pod, declared_clash, rivals
from patio_operator.placement.fleet import decode_pod
from patio_operator.webhooks import reviewing

log = logging.getLogger(__name__)

LORA_ADAPTERS_PATH = "/validate/loraadapters"
_FIELD = "spec.adapterName"


def add_route(app: web.Application, cluster: Cluster) -> None:
    """Serve the reviews of LoraAdapters."""

    async def validate(review: Object) -> Object:
        return await answer(cluster, review)

    reviewing.add_validation(app, LORA_ADAPTERS_PATH, LoraAdapter.kind, validate)


async def answer(cluster: Cluster, review: Mapping[str, Any]) -> Object:
    """Return the AdmissionReview that answers this one."""
    request = review["request"]
    namespace, name = request["namespace"], request["object"]["metadata"].get("name", "")
    response: Object = {"allowed": True}
    try:
        clash = await _clash(cluster, namespace, request["object"], request.get("oldObject") or {})
    except ApiError as error:
        log.warning("LoraAdapter not compared with others: %s/%s: %s", namespace, name, error.message)
        clash = None
        response["warnings"] = [f"not compared with the other LoraAdapters: {error.message}"[:256]]
    if clash is not None:
        log.info("LoraAdapter refused: %s/%s: %s", namespace, name, clash.message)
        response = {"allowed": False, "status": _status(name, clash)}
    return {
        "apiVersion": review["apiVersion"],
        "kind": "AdmissionReview",
        "response": {"uid": request["uid"], **response},
    }


async def _clash(cluster: Cluster, namespace: str, body: Object, old: Object) -> Clash | None:
    adapter = _decoded(body | {"metadata": {**body["metadata"], "namespace": namespace}})
    before = _decoded(old) if old else None
    if adapter is None or adapter.metadata.deletion_timestamp is not None:
        return None
    if before is not None and _wants(before) == _wants(adapter):
        # It was let through before, perhaps while nobody was asked: the rest of it can be changed all the same.
        return None
    there = [
        one for one in await cluster.list_all(LORA_ADAPTER, namespace) if _name_in_requests(one) == adapter.adapter_name
    ]
    others = rivals(adapter, [one for one in map(_decoded, there) if one is not None])
    clash = declared_clash(adapter, others)
    if clash is not None or not others:
        return clash
    pods = await cluster.list_all(POD, namespace, f"{labels.INJECTED}=true")
    return clash_on_a_pod(adapter, others, [one for one in map(_candidate, pods) if one is not None])


def _wants(adapter: LoraAdapter) -> tuple[Any, ...]:
    spec = adapter.spec
    return adapter.adapter_name, spec.selector, spec.role_ref, spec.base_model


def _name_in_requests(body: Object) -> Any:
    """Read the name without the rest: a namespace may have a thousand LoraAdapters, and few of one name."""
    return (body.get("spec") or {}).get("adapterName") or body["metadata"]["name"]


def _decoded(body: Object) -> LoraAdapter | None:
    """Return a LoraAdapter; None for one that this version cannot read, which nothing is loaded for either."""
    try:
        return LoraAdapter.model_validate(body)
    except ValidationError:
        return None


def _candidate(body: Object) -> Candidate | None:
    pod = decode_pod(body)
    if pod.leaving:
        return None
    try:
        said = json.loads((body["metadata"].get("annotations") or {}).get(labels.ENGINE) or "{}")
    except ValueError:
        said = {}
    model = said.get("model") if isinstance(said, dict) else None
    return Candidate(pod.name, pod.labels, model if isinstance(model, str) else None)


def _status(name: str, clash: Clash) -> Object:
    cause = {"field": _FIELD, "message": clash.message, "reason": "FieldValueDuplicate"}
    details = {"name": name, "group": LoraAdapter.group, "kind": LoraAdapter.kind, "causes": [cause]}
    return {"code": 422, "reason": "Invalid", "message": f"{_FIELD}: {clash.message}", "details": details}

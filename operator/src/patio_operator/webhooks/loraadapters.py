"""Answers the AdmissionReview of a LoraAdapter: rejected when another one wants its name on the same pods, and when its
credentials would be sent without TLS.

Reads the LoraAdapters of the same name in requests, and where the selections alone do not tell, looks at the pods that
the cache has; `loraadapters.planner.conflicts` decides. The API server finds them by their field `spec.adapterName`:
what was created a moment ago is among them, and the work does not grow with the namespace. Servers that cannot (before
Kubernetes 1.31) are not asked for everything instead: then the cache's LoraAdapters count.
What cannot be checked is let through with a warning, as it is while no operator answers (`failurePolicy: Ignore`): then
the LoraAdapter's status says `NameTaken`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from patio_api.invalid_field import InvalidField
from patio_api.loraadapter import LoraAdapter
from patio_api.source_rules import NOT_IN_CLEAR
from patio_kube.client import (
    ApiError,
    InvalidError,
    KubeClient,
    NotFoundError,
    Object,
    RetryableApiError,
    Scope,
)
from patio_kube.coalesced_reads import CoalescedReads
from patio_kube.resources import LORA_ADAPTER
from patio_operator.caches import Caches
from patio_operator.loraadapters.planner.conflicts import (
    Conflict,
    SelectablePod,
    conflict_on_a_pod,
    declared_conflict,
    rivals,
)
from patio_operator.webhooks import reviewing
from patio_operator.webhooks.reviewing import Decision

log = logging.getLogger(__name__)

LORA_ADAPTERS_PATH = "/validate/loraadapters"
_FIELD = "spec.adapterName"
_ENDPOINT = "spec.source.endpoint"
_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


MOST_COMPARED = 500
"""LoraAdapters of one name with which a new one is compared: a page of the API server."""


def add_route(app: web.Application, client: KubeClient, caches: Caches) -> None:
    """Serve the reviews of LoraAdapters."""
    rivals_of = Rivals(client, caches)

    async def validate(review: Object) -> Decision:
        return await answer(rivals_of, review)

    reviewing.add_validation(app, LORA_ADAPTERS_PATH, "loraadapters", LoraAdapter.kind, validate)


class Rivals:
    """Who has a name in requests in a namespace. Reviews at the same time share what is read for them."""

    def __init__(self, client: KubeClient, caches: Caches) -> None:
        self._client = client
        self._caches = caches
        self._reads = CoalescedReads(self._read)

    async def of_name(self, namespace: str, name: str) -> Sequence[LoraAdapter]:
        """Return the LoraAdapters that have a name in requests; raise ApiError when they cannot be read."""
        return await self._reads.get((namespace, name))

    def pods(self, namespace: str) -> list[SelectablePod]:
        """Return the pods with a sidecar, as the watch knows them."""
        if not self._caches.pods.synced_in(namespace):
            raise RetryableApiError(0, f"the operator cannot watch pods: {self._caches.pods.problem_in(namespace)}")
        return [
            SelectablePod(cached.pod.name, cached.pod.labels, cached.model)
            for cached in self._caches.pods.all(namespace)
            if not cached.pod.leaving
        ]

    async def _read(self, key: tuple[str, str]) -> Sequence[LoraAdapter]:
        namespace, name = key
        found: dict[str, LoraAdapter] = {}
        if self._caches.adapters.synced_in(namespace):
            adapters = (cached.adapter for cached in self._caches.adapters.all(namespace))
            found = {adapter.metadata.name: adapter for adapter in adapters if adapter.adapter_name == name}
        try:
            pages = self._client.pages(LORA_ADAPTER, Scope(namespace), f"spec.adapterName={name}")
            async with aclosing(pages):
                bodies, _ = await anext(pages)
            bodies = [*bodies[:MOST_COMPARED], *await self._called(namespace, name)]
        except InvalidError:
            if not self._caches.adapters.synced_in(namespace):
                raise
            return list(found.values())
        decoded = (adapter for adapter in map(_decoded, bodies) if adapter is not None)
        now = {adapter.metadata.name: adapter for adapter in decoded if adapter.adapter_name == name}
        # What the watch alone has may be gone by now; of more than a page it is the rest.
        return list((found | now if len(now) >= MOST_COMPARED else now).values())

    async def _called(self, namespace: str, name: str) -> list[Object]:
        """Read the LoraAdapter that is called as the name, which is its name in requests if it gives no other."""
        if not _OBJECT_NAME.fullmatch(name):
            return []
        try:
            return [await self._client.get(LORA_ADAPTER, name, namespace)]
        except NotFoundError:
            return []


async def answer(rivals_of: Rivals, review: Mapping[str, Any]) -> Decision:
    """Decide an AdmissionReview."""
    request = review["request"]
    namespace, name = request["namespace"], request["object"]["metadata"].get("name", "")
    response: Object = {"allowed": True}
    if _is_too_open(request["object"], request.get("oldObject") or {}):
        return reviewing.decided(review, _invalid(name, InvalidField(_ENDPOINT, NOT_IN_CLEAR)), "endpoint_without_tls")
    reason = "accepted"
    try:
        conflict = await _conflict(rivals_of, namespace, request["object"], request.get("oldObject") or {})
    except ApiError as error:
        log.warning("LoraAdapter not compared with others: %s/%s: %s", namespace, name, error.message)
        conflict, reason = None, "not_compared"
        response["warnings"] = [f"the webhook could not compare the LoraAdapter with the others: {error.message}"[:256]]
    if conflict is not None:
        log.info("LoraAdapter rejected: %s/%s: %s", namespace, name, conflict.message)
        response = _invalid(name, InvalidField(_FIELD, conflict.message), "FieldValueDuplicate")
        reason = "name_taken"
    return reviewing.decided(review, response, reason)


def _is_too_open(body: Object, old: Object) -> bool:
    """Return whether a source that is new or changed would have credentials sent without TLS.

    The CRD's rule says so of changes only, for the sake of objects that are older than it.
    """
    adapter, before = _decoded(body), _decoded(old) if old else None
    if adapter is None or adapter.metadata.deletion_timestamp is not None:
        return False
    unchanged = before is not None and before.spec.source == adapter.spec.source
    return adapter.spec.source.sends_credentials_in_clear and not unchanged


async def _conflict(rivals_of: Rivals, namespace: str, body: Object, old: Object) -> Conflict | None:
    adapter = _decoded(body | {"metadata": {**body["metadata"], "namespace": namespace}})
    before = _decoded(old) if old else None
    if adapter is None or adapter.metadata.deletion_timestamp is not None:
        return None
    if before is not None and _wants(before) == _wants(adapter):
        # It was let through before, perhaps without a check: the rest of it can be changed all the same.
        return None
    others = rivals(adapter, await rivals_of.of_name(namespace, adapter.adapter_name))
    conflict = declared_conflict(adapter, others)
    if conflict is not None or not others:
        return conflict
    return conflict_on_a_pod(adapter, others, rivals_of.pods(namespace))


def _wants(adapter: LoraAdapter) -> tuple[Any, ...]:
    spec = adapter.spec
    return adapter.adapter_name, spec.selector, spec.role_ref, spec.base_model


def _decoded(body: Object) -> LoraAdapter | None:
    """Return a LoraAdapter; None for one that this version cannot read, which nothing is loaded for either."""
    try:
        return LoraAdapter.model_validate(body)
    except ValidationError:
        return None


def _invalid(name: str, problem: InvalidField, why: str = "FieldValueInvalid") -> Object:
    return reviewing.invalid(LoraAdapter, name, (problem,), str(problem), why)

"""Answers the AdmissionReview of a ModelEndpoint: rejected for what the schema cannot say, warned of a taken name.

`modelendpoints.validation` finds what is wrong; of a change only what the object did not have before counts, so that an
object which is stored already can be labelled and corrected in steps. Who has a name depends on objects that come and
go: the status says `NameTaken`, and the warning says it at once. Nothing is asked of the API server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from aiohttp import web

from patio_api.invalid_field import InvalidField
from patio_api.model_endpoint import ModelEndpoint, UnreadableEndpoint, read
from patio_kube.client import Object
from patio_operator.modelendpoints.planner import claims
from patio_operator.modelendpoints.planner.snapshot import Claim
from patio_operator.modelendpoints.validation import problems
from patio_operator.webhooks import reviewing
from patio_operator.webhooks.reviewing import Decision

log = logging.getLogger(__name__)

MODEL_ENDPOINTS_PATH = "/validate/modelendpoints"
MOST_CAUSES = 20

RivalsOf = Callable[[str, Collection[str]], Iterable[Claim]]
"""Takes `namespace/name` of an endpoint and its names in requests; returns who else claims one of them."""


def add_route(app: web.Application, rivals_of: RivalsOf) -> None:
    """Serve the reviews of ModelEndpoints."""

    async def validate(review: Object) -> Decision:
        return answer(rivals_of, review)

    reviewing.add_validation(app, MODEL_ENDPOINTS_PATH, "modelendpoints", ModelEndpoint.kind, validate)


def answer(rivals_of: RivalsOf, review: Mapping[str, Any]) -> Decision:
    """Decide an AdmissionReview."""
    request = review["request"]
    body, old = request["object"], request.get("oldObject") or {}
    name = body["metadata"].get("name", "")
    response: Object = {"allowed": True}
    reason = "accepted"
    if not body["metadata"].get("deletionTimestamp"):
        before = _found(old) if old else ()
        found = [problem for problem in _found(body) if problem not in before]
        if found:
            log.info("ModelEndpoint rejected: %s/%s: %s", request.get("namespace"), name, found[0])
            shown = found[:MOST_CAUSES]
            response, reason = reviewing.invalid(ModelEndpoint, name, shown, "; ".join(map(str, shown))), "invalid"
        elif warnings := _warnings(rivals_of, request.get("namespace", ""), body):
            response["warnings"] = warnings
    return reviewing.decided(review, response, reason)


def _found(body: Object) -> tuple[InvalidField, ...]:
    endpoint = read(body)
    if isinstance(endpoint, UnreadableEndpoint):
        path, _, message = endpoint.message.partition(": ")
        return (InvalidField(path, message),)
    return problems(endpoint)


def _warnings(rivals_of: RivalsOf, namespace: str, body: Object) -> list[str]:
    endpoint = read({**body, "metadata": {**body["metadata"], "namespace": namespace}})
    if isinstance(endpoint, UnreadableEndpoint):
        return []
    taken = claims.taken(endpoint, rivals_of(endpoint.key, endpoint.names))
    return [f"the name {name!r} is that of the older ModelEndpoint {holder}"[:256] for name, holder in taken.items()]

"""Answers the AdmissionReview of a profile: rejected when a pod with it would be, with the path of the error.

Tries it with `profiles.dry_run`. A profile that cannot be tried is let through with a warning: the reconciler tries it
again and writes what it finds into the profile's status.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from patio_api.invalid_field import InvalidField
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import KubeClient, Object
from patio_operator.profiles.dry_run import dry_run_profile
from patio_operator.profiles.validation import DryRunResult
from patio_operator.webhooks import reviewing
from patio_operator.webhooks.reviewing import Decision, Limits, MiB

log = logging.getLogger(__name__)

PROFILES_PATH = "/validate/profiles"
LIMITS = Limits(longest=4 * MiB, bytes_at_once=16 * MiB, at_once=4)
"""A trial may take a hundred requests to the API server."""


def add_route(app: web.Application, client: KubeClient, namespace: str) -> None:
    """Serve the reviews of profiles; `namespace` is the one that trial pods would be in."""

    async def validate(review: Object) -> Decision:
        return await answer(client, namespace, review)

    reviewing.add_validation(app, PROFILES_PATH, "profiles", ClusterEngineRuntimeProfile.kind, validate, LIMITS)


async def answer(client: KubeClient, namespace: str, review: Mapping[str, Any]) -> Decision:
    """Decide an AdmissionReview."""
    request = review["request"]
    body, old = request["object"], request.get("oldObject") or {}
    response: Object = {"allowed": True}
    reason = "unchanged"
    if not _unchanged(body, old) and not body["metadata"].get("deletionTimestamp"):
        dry_run = await _dry_run(client, namespace, body)
        name = body["metadata"].get("name", "")
        reason = "accepted"
        if dry_run.problems:
            log.info("profile rejected: %s: %s", name, dry_run)
            response = reviewing.invalid(ClusterEngineRuntimeProfile, name, dry_run.problems, str(dry_run))
            reason = "dry_run_failed"
        elif dry_run.not_possible:
            log.warning("dry run of profile not possible: %s: %s", name, dry_run.not_possible)
            response["warnings"] = [f"the dry run was not possible: {dry_run.not_possible}"[:256]]
            reason = "not_tried"
    return reviewing.decided(review, response, reason)


def _unchanged(body: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether only what no pod gets has changed: a profile that was stored not_possible can still be labelled."""
    annotations = [(item.get("metadata") or {}).get("annotations") for item in (body, old)]
    return body.get("spec") == old.get("spec") and annotations[0] == annotations[1]


async def _dry_run(client: KubeClient, namespace: str, body: Object) -> DryRunResult:
    try:
        profile = ClusterEngineRuntimeProfile.model_validate(body)
    except ValidationError as error:
        return DryRunResult(tuple(_problem(detail) for detail in error.errors()))
    return await dry_run_profile(client, namespace, profile)


def _problem(error: Mapping[str, Any]) -> InvalidField:
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]]
    return InvalidField("".join(steps).lstrip("."), error["msg"])

"""Answers one AdmissionReview for a pod: what to read, what `injection` says, how the API server wants to hear it.

What it needs it reads for each pod (`pod_mutation_reads`): a standby replica answers as well as the leader. A pod that
cannot be injected as it asked is rejected with the reason, never admitted without. In observe mode a pod of upstream's
controller has asked for nothing itself: what cannot be added to it is a warning, and the pod stays upstream's.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from patio_api import rollout_annotations
from patio_kube.client import Object
from patio_operator import injection
from patio_operator.loraadapters.planner.selection import initial_adapters
from patio_operator.webhooks import reviewing
from patio_operator.webhooks.pod_mutation_reads import PodMutationReads
from patio_operator.webhooks.reviewing import Decision

log = logging.getLogger(__name__)


async def answer(
    lookups: PodMutationReads,
    review: Mapping[str, Any],
    new_access: Callable[[], injection.CallerKeys],
    *,
    observing: bool,
) -> Decision:
    """Decide an AdmissionReview.

    Args:
        lookups: where profiles, LoraAdapters and, in observe mode, groups are read.
        review: the API server's question about a pod.
        new_access: makes what each pod gets one of.
        observing: whether groups are upstream's controller's (observe mode).

    Raises:
        ApiError: a profile or the LoraAdapters could not be read; the API server should get a 500.

    """
    request = review["request"]
    pod = request["object"]
    if not isinstance(pod.get("spec"), dict):
        raise reviewing.InvalidReviewError("request.object has no spec")
    namespace = request.get("namespace") or pod["metadata"].get("namespace") or "default"
    name = str(pod["metadata"].get("name") or pod["metadata"].get("generateName", "") + "…")[:253]
    of_its_role = await _runtimes_of_role(lookups, pod, namespace) if observing else ()
    result = await _inject(lookups, pod, namespace, of_its_role, new_access)
    left_to_upstream = False
    if isinstance(result, injection.PodRejection) and of_its_role != () and injection.runtimes_of(pod) == ():
        log.warning("pod of upstream's controller not changed: %s/%s: %s", namespace, name, result.message)
        result, left_to_upstream = injection.Injection(dict(pod), (result.message,)), True
    if isinstance(result, injection.PodRejection):
        log.warning("pod rejected: %s/%s: %s", namespace, name, result.message)
        rejected: Object = {"allowed": False, "status": {"code": 422, "message": result.message}}
        return Decision(_response(review, rejected), result.reason)
    response: Object = {"allowed": True, "warnings": [injection.shortened(warning, 256) for warning in result.warnings]}
    patch = injection.json_patch(pod, result.pod)
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        log.info("pod injected: %s/%s", namespace, name)
    reason = "left_to_upstream" if left_to_upstream else "injected" if patch else "unchanged"
    return Decision(_response(review, response), reason)


async def _runtimes_of_role(
    lookups: PodMutationReads, pod: Mapping[str, Any], namespace: str
) -> tuple[injection.RuntimeRef, ...] | injection.PodRejection:
    """Read what the role of a pod asks for."""
    member = injection.member_of(pod)
    if member is None:
        return ()
    group, role = member
    body = await lookups.group(namespace, group)
    return () if body is None else injection.runtimes_of_role(pod, body, role)


async def _inject(
    lookups: PodMutationReads,
    pod: Mapping[str, Any],
    namespace: str,
    of_its_role: tuple[injection.RuntimeRef, ...] | injection.PodRejection,
    new_access: Callable[[], injection.CallerKeys],
) -> injection.Injection | injection.PodRejection:
    if isinstance(of_its_role, injection.PodRejection):
        return of_its_role
    refs = injection.runtimes_of(pod, of_its_role)
    if isinstance(refs, injection.PodRejection):
        return refs
    if not refs:
        return injection.Injection(dict(pod))
    rolled_for = rollout_annotations.of_template(pod["metadata"])
    runtimes: list[injection.Runtime] = []
    for ref in refs:
        # One after the other: what is known is answered at once, and a task for each would have to wait for its turn.
        profile = await lookups.profile(ref.profile_name, rolled_for.get(ref.profile_name))
        if profile is None:
            return injection.PodRejection(
                f"The pod asks for ClusterEngineRuntimeProfile {ref.profile_name!r}, which does not exist. "
                "Create it, or correct the name.",
                "profile_not_found",
            )
        runtimes.append(injection.Runtime(profile, ref.overrides, ref.inject_containers, ref.rendered))
    adapters = await lookups.adapters(namespace)

    def injected() -> injection.Injection | injection.PodRejection:
        engine = injection.engine_of(pod, runtimes)
        required = initial_adapters(adapters, pod["metadata"].get("labels") or {}, engine.served, engine.free_slots)
        return injection.inject(pod, runtimes, required, new_access())

    if injection.is_large(pod):
        return await asyncio.to_thread(injected)  # other pods do not wait for it
    return injected()


def _response(review: Mapping[str, Any], response: Object) -> Object:
    return {
        "apiVersion": review["apiVersion"],
        "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], **response},
    }

"""Answers one AdmissionReview for a pod: what to look up, what `injection` says, how the API server wants to hear it.

Looks up profiles and LoraAdapters (`lookups`), and nothing else: a standby replica answers as well as the leader.
A pod that cannot be injected as it asked is refused with the reason, never admitted without.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

from patio_operator import injection
from patio_operator.cluster.api import Object
from patio_operator.placement.matching import for_pod, load_request
from patio_operator.rollouts.workloads import marks
from patio_operator.webhooks.lookups import Lookups

log = logging.getLogger(__name__)


async def answer(lookups: Lookups, review: Mapping[str, Any], new_access: Callable[[], injection.Access]) -> Object:
    """Return the AdmissionReview that answers this one; `new_access` makes what each pod gets one of.

    Raises:
        ApiError: a profile or the LoraAdapters could not be read; the API server should be told 500.

    """
    request = review["request"]
    pod = request["object"]
    namespace = request.get("namespace") or pod["metadata"].get("namespace") or "default"
    name = pod["metadata"].get("name") or pod["metadata"].get("generateName", "") + "…"
    result = await _inject(lookups, pod, namespace, new_access)
    if isinstance(result, injection.Refusal):
        log.warning("pod refused: %s/%s: %s", namespace, name, result.message)
        return _response(review, {"allowed": False, "status": {"code": 422, "message": result.message}})
    response: Object = {"allowed": True, "warnings": [one[:256] for one in result.warnings]}
    patch = injection.json_patch(pod, result.pod)
    if patch:
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(json.dumps(patch).encode()).decode()
        log.info("pod injected: %s/%s", namespace, name)
    return _response(review, response)


async def _inject(
    lookups: Lookups, pod: Mapping[str, Any], namespace: str, new_access: Callable[[], injection.Access]
) -> injection.Injection | injection.Refusal:
    refs = injection.runtimes_of(pod)
    if isinstance(refs, injection.Refusal):
        return refs
    if not refs:
        return injection.Injection(dict(pod))
    rolled_for = marks(pod["metadata"])
    runtimes: list[injection.Runtime] = []
    for ref in refs:
        profile = await lookups.profile(ref.profile_name, rolled_for.get(ref.profile_name))
        if profile is None:
            return injection.Refusal(
                f"The pod asks for ClusterEngineRuntimeProfile {ref.profile_name!r}, which does not exist. "
                "Create it, or correct the name."
            )
        runtimes.append(injection.Runtime(profile, ref.overrides, ref.inject_containers))
    adapters = await lookups.adapters(namespace)
    wanted = for_pod(adapters, pod["metadata"].get("labels") or {})
    return injection.inject(pod, runtimes, [load_request(one) for one in wanted.values()], new_access())


def _response(review: Mapping[str, Any], response: Object) -> Object:
    return {
        "apiVersion": review["apiVersion"],
        "kind": "AdmissionReview",
        "response": {"uid": review["request"]["uid"], **response},
    }

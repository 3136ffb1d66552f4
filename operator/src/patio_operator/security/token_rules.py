"""What the API server says of the token by which a sidecar proves which pod it is in. Pure.

Tokens are those that injection has the kubelet put into the sidecar (`injection.authentication`): of one audience, and
bound to the pod, so that they end with it. A pod that reads another pod's token gains nothing, since the pod is
compared here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_protocol.credentials import TOKEN_AUDIENCE

_POD_UID = "authentication.kubernetes.io/pod-uid"
_MOST_WORDS = 300
"""Characters of the API server's own words."""


def review_of(token: str) -> dict[str, Any]:
    """Return the TokenReview to ask the API server for."""
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [TOKEN_AUDIENCE]},
    }


def objection(review: Mapping[str, Any], namespace: str, pod_uid: str) -> str | None:
    """Say why a reviewed token does not prove that its holder is in the pod; None: it does.

    Args:
        review: the API server's answer.
        namespace: of the pod.
        pod_uid: of the pod.

    """
    status = _mapping(review.get("status"))
    if status.get("authenticated") is not True:
        message = str(status.get("error") or "no reason given")[:_MOST_WORDS]
        return f"the API server rejects its token: {message}"
    if TOKEN_AUDIENCE not in _strings(status.get("audiences")):
        return f"its token is not for the audience {TOKEN_AUDIENCE}"
    user = _mapping(status.get("user"))
    if not str(user.get("username")).startswith(f"system:serviceaccount:{namespace}:"):
        return f"its token does not belong to a service account of namespace {namespace}"
    bound_to = _strings(_mapping(user.get("extra")).get(_POD_UID))
    if bound_to != [pod_uid]:
        return "its token is not bound to this pod" if not bound_to else "its token is bound to another pod"
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _strings(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

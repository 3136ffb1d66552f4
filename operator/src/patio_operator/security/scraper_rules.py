"""Who may read the metrics, by what the API server says of a bearer token and of its user. Pure.

As in controller-runtime: the token is one of the API server's own audience, and its user may `get` the path /metrics, a
non-resource URL. `scrapers` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

METRICS_PATH = "/metrics"
LONGEST_TOKEN = 8_000
"""Characters. A service account's has about a thousand; the head of a request ends at eight thousand anyway."""
_MOST_GROUPS = 1_000
_LONGEST_NAME = 256
"""Characters of a user's name in a message."""


@dataclass(frozen=True)
class ScraperRejection:
    """Why a caller does not get the metrics: a status of HTTP and a sentence for the caller."""

    status: int
    message: str


NO_TOKEN = ScraperRejection(401, "Send the token of a service account: Authorization: Bearer TOKEN.")
BAD_TOKEN = ScraperRejection(401, "The API server does not know this token, or it has expired.")
CANNOT_TELL = ScraperRejection(503, "The API server did not say whether this token may read metrics. Try again.")
TOO_MANY = ScraperRejection(503, "Too many tokens that are not known. Try again.")


def bearer_token(authorization: str | None) -> str | None:
    """Return the token in a header Authorization; None if there is none that can be one."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    fits = 0 < len(token) <= LONGEST_TOKEN and token.isascii() and token.isprintable() and " " not in token
    return token if scheme.lower() == "bearer" and fits else None


def token_review(token: str) -> dict[str, Any]:
    """Return the TokenReview to ask the API server for."""
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}


def access_review(review: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the SubjectAccessReview to ask for about the user of a reviewed token; None: the token is not good."""
    status = _mapping(review.get("status"))
    user = _mapping(status.get("user"))
    if status.get("authenticated") is not True or not isinstance(user.get("username"), str) or not user["username"]:
        return None
    spec: dict[str, Any] = {
        "nonResourceAttributes": {"path": METRICS_PATH, "verb": "get"},
        "user": user["username"],
        "groups": _texts(user.get("groups"))[:_MOST_GROUPS],
        "extra": {str(name): _texts(values) for name, values in _mapping(user.get("extra")).items()},
    }
    if isinstance(user.get("uid"), str):
        spec["uid"] = user["uid"]
    return {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}


def rejection(review: Mapping[str, Any]) -> ScraperRejection | None:
    """Return why the user of an answered SubjectAccessReview may not read metrics; None: it may."""
    if _mapping(review.get("status")).get("allowed") is True:
        return None
    user = str(_mapping(review.get("spec")).get("user"))[:_LONGEST_NAME]
    return ScraperRejection(403, f"{user} may not get {METRICS_PATH}: bind the ClusterRole patio-metrics-reader to it.")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []

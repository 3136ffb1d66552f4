"""Who may use what: which models a client may use, and which paths need no key. Pure.

Envoy's program (`control`) decides by it on each request, and the front lists models by it, so that both agree.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from patio_gateway.snapshot import Client

READINESS = "/readyz"
"""The path that says whether the gateway knows its models."""

PROBES = ("/healthz", READINESS, "/healthcheck")
"""Paths that say whether the gateway serves."""

PAGE = ("/", "/page.css", "/page.js")
"""The page for people, without anything that a key is for."""

OPEN = (*PROBES, *PAGE)
"""Paths of the front that answer without a key."""


def may_use(client: Client, endpoint: str) -> bool:
    """Return whether a client may use an endpoint, which is named `namespace/name`."""
    return any(_matches(pattern, endpoint) for pattern in client.endpoints)


def _matches(pattern: str, endpoint: str) -> bool:
    if pattern == "*":
        return True
    wanted, parts = pattern.split("/", 1), endpoint.split("/", 1)
    if len(wanted) != len(parts):
        return pattern == endpoint
    return all(
        fnmatchcase(part, each.replace("[", "[[]").replace("?", "[?]"))
        for each, part in zip(wanted, parts, strict=True)
    )

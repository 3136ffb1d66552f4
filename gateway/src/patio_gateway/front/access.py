"""Which models a client may use: for lists, since Envoy checks each request itself. Pure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from patio_gateway.snapshot import Client, Model, Snapshot


def visible(snapshot: Snapshot, client: str | None) -> tuple[Model, ...]:
    """Return the models that a client may use, by the client's name; None is a request without a key."""
    if not snapshot.closed:
        return snapshot.models
    known = next((each for each in snapshot.clients if each.name == client), None)
    return tuple(
        model for model in snapshot.models if model.public or (known is not None and may_use(known, model.endpoint))
    )


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

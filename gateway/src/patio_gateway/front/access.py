"""Which models a client may use: for lists, since Envoy checks each request itself. Pure."""

from __future__ import annotations

from patio_gateway.rights import may_use
from patio_gateway.snapshot import Model, Snapshot


def visible(snapshot: Snapshot, client: str | None) -> tuple[Model, ...]:
    """Return the models that a client may use, by the client's name; None is a request without a key."""
    if not snapshot.closed:
        return snapshot.models
    found = next((each for each in snapshot.clients if each.name == client), None)
    return tuple(
        model for model in snapshot.models if model.public or (found is not None and may_use(found, model.endpoint))
    )

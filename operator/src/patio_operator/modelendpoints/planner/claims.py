"""Which names in requests are whose: one gateway serves all namespaces, so a name is one endpoint's. Pure.

Of two ModelEndpoints that claim a name the older one has it (by creation, then by namespace and name), whatever either
was edited to claim later: a rule that everybody who reads both objects finds out alike, the gateway too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from patio_api.model_endpoint import ModelEndpoint
from patio_api.precedence import Precedence, precedence
from patio_operator.modelendpoints.planner.snapshot import Claim


def taken(endpoint: ModelEndpoint, claims: Iterable[Claim]) -> Mapping[str, str]:
    """Return the names of an endpoint that are an older one's, with that one's `namespace/name`."""
    names = frozenset(endpoint.names)
    place = precedence(endpoint.metadata.creation_timestamp, endpoint.key)
    holders: dict[str, Precedence] = {}
    for claim in claims:
        other = precedence(claim.created, claim.key)
        if claim.key == endpoint.key or other > place:
            continue
        for name in names.intersection(claim.names):
            holders[name] = min(holders.get(name, other), other)
    return {name: holders[name][1] for name in endpoint.names if name in holders}

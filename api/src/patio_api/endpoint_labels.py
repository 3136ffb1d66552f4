"""The labels, annotations and names by which what is made of a ModelEndpoint is found, and what the gateway reads: one
place for their spelling."""

from __future__ import annotations

ENDPOINT = "patio.dev/endpoint"
"""Label of everything that is made of a ModelEndpoint, its pods included: the ModelEndpoint's name. LoraAdapters that
are to be on its workers select by it."""
ENDPOINT_REVISION = "patio.dev/endpoint-revision"
"""Label of its groups and pods: the revision of the ModelEndpoint that they are of."""
TAKES_REQUESTS = "patio.dev/takes-requests"
"""Label ("true") of the pods that requests are sent to: servers, leaders of several nodes, routers before prefill and
decode. Not of the pods behind those."""
REQUEST_CONTAINERS = ("engine", "router")
"""Names of the container that takes requests in such a pod: an engine's, or the router's before prefill and decode."""
REQUEST_PORT = "http"
"""Name of the port on which it does."""
GATEWAY_KEYS = "patio.dev/gateway-keys"
"""Label ("true") of the Secrets with keys of the gateway's clients, in the gateway's own namespace."""
GATEWAY_MANAGER = "patio-gateway"
"""Under which the gateway writes objects and events."""
SHAPE = "patio.dev/endpoint-shape"
"""Annotation of a group: how many instances of each role are one worker, as a JSON object. A role that is not in it, or
has 0, has one instance however many workers there are."""

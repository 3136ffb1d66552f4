"""The labels and annotations by which what is made of a ModelEndpoint is found: one place for their spelling."""

from __future__ import annotations

ENDPOINT = "patio.dev/endpoint"
"""Label of everything that is made of a ModelEndpoint, its pods included: the ModelEndpoint's name. LoraAdapters that
are to be on its workers select by it."""
ENDPOINT_REVISION = "patio.dev/endpoint-revision"
"""Label of its groups and pods: the revision of the ModelEndpoint that they are of."""
TAKES_REQUESTS = "patio.dev/takes-requests"
"""Label ("true") of the pods that requests are sent to: servers, leaders of several nodes, routers before prefill and
decode. Not of the pods behind those."""
SHAPE = "patio.dev/endpoint-shape"
"""Annotation of a group: how many instances of each role are one worker, as a JSON object. A role that is not in it, or
has 0, has one instance however many workers there are."""

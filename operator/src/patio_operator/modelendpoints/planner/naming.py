"""Names, labels, owner and revision of what is made of a ModelEndpoint.

A revision is a hash of what the spec says of the workers' pods. It is not a hash of the pods' templates, so that
another version of Patio, which may write the templates differently, replaces no worker (decision 0044).
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from patio_api.endpoint_labels import ENDPOINT, ENDPOINT_REVISION, TAKES_REQUESTS
from patio_api.model_endpoint import ModelEndpoint

ROUTER = "router"
"""Role of the router before prefill and decode."""
_HASH = 8
_LONGEST_GROUP = 52 - len("-prefill")
"""A StatefulSet `GROUP-ROLE` may have 52 characters: its pods carry its name and a hash in a label of 63."""


def revision(endpoint: ModelEndpoint) -> str:
    """Return the hash of what the spec says of the workers' pods: neither how many, nor who may use them."""
    spec = endpoint.spec
    part = {
        "uri": spec.model.uri,
        "names": endpoint.names if spec.engine == "vllm" else (endpoint.model_name,),
        "engine": spec.engine,
        "runtimes": [runtime.to_api() for runtime in endpoint.runtimes],
        "cache": spec.cache and spec.cache.to_api(),
        "source": spec.source and spec.source.to_api(),
        "roles": [role.to_api() for role in endpoint.roles],
        "router": spec.router and spec.router.to_api(),
        "lora": spec.adapters and [spec.adapters.max_loaded, spec.adapters.max_rank],
    }
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()[:_HASH]


def group(endpoint: ModelEndpoint, revision_: str) -> str:
    """Return the name of the RoleBasedGroup of a revision.

    A name that is too long is cut, and its hash has the whole name in it.
    """
    name = endpoint.metadata.name
    longest = _LONGEST_GROUP - _HASH - 1
    if len(name) > longest:
        digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
        name = f"{name[: longest - _HASH - 1].rstrip('-')}-{digest}"
    return f"{name}-{revision_}"


def service(endpoint: ModelEndpoint) -> str:
    """Return the name of the Service before the workers."""
    return endpoint.metadata.name


def labels(endpoint: ModelEndpoint) -> dict[str, str]:
    """Return the labels of everything that is made of a ModelEndpoint."""
    return {ENDPOINT: endpoint.metadata.name}


def labels_of_revision(endpoint: ModelEndpoint, revision_: str) -> dict[str, str]:
    """Return the labels of what is made of one revision of it."""
    return {**labels(endpoint), ENDPOINT_REVISION: revision_}


def selector(endpoint: ModelEndpoint) -> dict[str, str]:
    """Return the labels of the pods that take requests, of every revision."""
    return {**labels(endpoint), TAKES_REQUESTS: "true"}


def owner(endpoint: ModelEndpoint) -> dict[str, Any]:
    """Return the owner reference by which what is made of a ModelEndpoint goes with it."""
    return {
        "apiVersion": f"{endpoint.group}/{endpoint.version}",
        "kind": endpoint.kind,
        "name": endpoint.metadata.name,
        "uid": endpoint.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }

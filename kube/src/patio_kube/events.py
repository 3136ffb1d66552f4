"""Kubernetes Events: how users see what the operator did, with `kubectl describe`.

An event that is repeated word for word is counted on the one object that is there, not written again. Failing to
write one is logged and never stops the work it tells of.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from patio_kube.client import ApiError, ConflictError, KubeClient, TerminatingError
from patio_kube.resources import EVENT

log = logging.getLogger(__name__)

MAX_MESSAGE = 1024
"""Characters: the API server rejects longer messages."""


async def record(client: KubeClient, about: Mapping[str, Any], type_: str, reason: str, message: str) -> None:
    """Tell the users of an object that something happened to it. `type_` is Normal or Warning."""
    metadata = about["metadata"]
    message = message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
    namespace = metadata.get("namespace", "default")
    digest = hashlib.sha256(f"{metadata.get('uid')}/{type_}/{reason}/{message}".encode()).hexdigest()[:16]
    name = f"{metadata['name'][:200]}.{digest}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": about["apiVersion"],
            "kind": about["kind"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace"),
            "uid": metadata.get("uid"),
            "resourceVersion": metadata.get("resourceVersion"),
        },
        "type": type_,
        "reason": reason,
        "message": message,
        "source": {"component": client.manager},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
    try:
        try:
            await client.create(EVENT, body, namespace)
        except ConflictError:
            existing = await client.get(EVENT, name, namespace)
            await client.merge(
                EVENT, name, namespace, {"count": int(existing.get("count") or 1) + 1, "lastTimestamp": now}
            )
    except TerminatingError:
        log.debug("event not recorded: %s %s: the namespace is being deleted", reason, metadata["name"])
    except ApiError as error:
        log.warning("event not recorded: %s %s: %s", reason, metadata["name"], error.message)

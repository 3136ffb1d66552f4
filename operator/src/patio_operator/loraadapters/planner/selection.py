"""Which pods a LoraAdapter selects, and the order that their sidecars get. Pure.

Used twice with the same answer: by admission, for the pod that is about to be, and by the planner, for the pods
that are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from patio_operator.api.labels import group_and_role
from patio_operator.api.loraadapter import LoraAdapter
from patio_protocol.adapters import LoadRequest
from patio_protocol.sources import SourceConfig

OWNER_PREFIX = f"{LoraAdapter.kind}/"
"""How the owners of adapters that LoraAdapters had loaded begin (`LoraAdapter.owner`)."""

_NEVER = datetime.max.replace(tzinfo=UTC)


def source_revision(adapter: LoraAdapter) -> str:
    """Return what changes when the source's content may: a digest of everything in it but the credentials."""
    source = adapter.spec.source
    content = source.uri
    if source.revision is not None or source.endpoint is not None:
        content = json.dumps([source.uri, source.revision, source.endpoint])
    if source.region is not None or source.addressing_style is not None or source.allow_plain_http:
        # The content is the same; but pods that failed without them have to hear of them.
        content = json.dumps([content, source.region, source.addressing_style, bool(source.allow_plain_http)])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def load_request(adapter: LoraAdapter) -> LoadRequest:
    """Return the order that makes a pod have this adapter, without waiting for the outcome and without credentials."""
    source = adapter.spec.source
    name, owner, revision = adapter.adapter_name, adapter.owner, source_revision(adapter)
    if source.is_file:
        return LoadRequest(lora_name=name, lora_path=source.path, owner=owner, revision=revision, wait=0)
    options: dict[str, str] = {}
    if source.endpoint is not None:
        options["hf_endpoint" if source.is_repository else "endpoint"] = source.endpoint
    if source.revision is not None:
        options["hf_revision"] = source.revision
    if source.region is not None:
        options["region"] = source.region
    if source.addressing_style is not None:
        options["addressing_style"] = source.addressing_style
    if source.allow_plain_http:
        options["allow_plain_http"] = "true"
    if not options:
        return LoadRequest(lora_name=name, source=source.uri, owner=owner, revision=revision, wait=0)
    config = SourceConfig(options)
    return LoadRequest(lora_name=name, source=source.uri, config=config, owner=owner, revision=revision, wait=0)


def selects(adapter: LoraAdapter, labels: Mapping[str, str]) -> bool:
    """Tell whether a pod with these labels is one that the LoraAdapter is for."""
    if adapter.spec.selector is not None:
        return adapter.spec.selector.match_labels.items() <= labels.items()
    role_ref = adapter.spec.role_ref
    if role_ref is None:
        return False
    return group_and_role(labels) == (role_ref.group, role_ref.role)


def is_deleting(adapter: LoraAdapter) -> bool:
    """Tell whether the LoraAdapter is on its way out."""
    return adapter.metadata.deletion_timestamp is not None


def oldest_first(adapters: Iterable[LoraAdapter]) -> list[LoraAdapter]:
    """Return the order in which LoraAdapters that want one name on one pod come to it."""
    return sorted(adapters, key=lambda adapter: (adapter.metadata.creation_timestamp or _NEVER, adapter.metadata.name))


def for_pod(adapters: Iterable[LoraAdapter], labels: Mapping[str, str]) -> dict[str, LoraAdapter]:
    """Return the adapters that a pod with these labels should have, by their name in requests.

    Where two LoraAdapters want one name, the older has it.
    """
    chosen: dict[str, LoraAdapter] = {}
    for adapter in oldest_first(adapters):
        if not is_deleting(adapter) and selects(adapter, labels):
            chosen.setdefault(adapter.adapter_name, adapter)
    return chosen

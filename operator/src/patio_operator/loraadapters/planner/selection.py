"""Which pods a LoraAdapter selects, and the order that their sidecars get. Pure.

Used twice with the same answer: by admission, for the pod that is being created, and by the planner, for the pods that
exist.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Generic, TypeVar

from patio_api.labels import group_and_role
from patio_api.loraadapter import LoraAdapter
from patio_protocol.adapters import LoadRequest
from patio_protocol.sources import SourceConfig

OWNER_PREFIX = f"{LoraAdapter.kind}/"
"""How the owners of adapters that LoraAdapters had loaded begin (`LoraAdapter.owner`)."""

T = TypeVar("T")

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
    """Tell whether the LoraAdapter is being deleted."""
    return adapter.metadata.deletion_timestamp is not None


def oldest_first(adapters: Iterable[LoraAdapter]) -> list[LoraAdapter]:
    """Return the order in which LoraAdapters that want one name on one pod come to it."""
    return sorted(adapters, key=lambda adapter: (adapter.metadata.creation_timestamp or _NEVER, adapter.metadata.name))


def for_pod(adapters: Iterable[LoraAdapter], labels: Mapping[str, str]) -> dict[str, LoraAdapter]:
    """Return the adapters that a pod with these labels should have, by their name in requests.

    If two LoraAdapters want one name, the older one gets it.
    """
    chosen: dict[str, LoraAdapter] = {}
    for adapter in oldest_first(adapters):
        if not is_deleting(adapter) and selects(adapter, labels):
            chosen.setdefault(adapter.adapter_name, adapter)
    return chosen


def initial_adapters(
    adapters: Iterable[LoraAdapter], labels: Mapping[str, str], served: Collection[str], limit: int | None
) -> list[LoadRequest]:
    """Return the orders for the adapters that a new pod must have before it is ready.

    `injection` writes them into the pod, where everybody who may read pods reads them. So no order from here has a
    credential in it: an adapter whose source needs some waits for the operator's signed call. Adapters with `replicas`
    are not here: `planner` chooses among pods that exist.

    Where not all fit, the pinned ones go first and then the older ones, as the planner has it; it says of the others
    that there is no room.

    Args:
        adapters: all LoraAdapters of the pod's namespace.
        labels: the pod's.
        served: names under which its engine will serve its base model; empty when that is not known. Then what is for
            one base model only waits until the engine tells, as it does in the planner.
        limit: how many adapters its engine has room for; None: any number, as far as is known.

    """
    matching = [adapter for adapter in adapters if adapter.spec.base_model is None or adapter.spec.base_model in served]
    required = [adapter for adapter in for_pod(matching, labels).values() if adapter.spec.replicas is None]
    return [
        _initial_order(adapter) for adapter in sorted(required, key=lambda adapter: not adapter.spec.pinned)[:limit]
    ]


def _initial_order(adapter: LoraAdapter) -> LoadRequest:
    request = load_request(adapter)
    if adapter.spec.source.secret_ref is None:
        return request
    return request.model_copy(update={"expects_credentials": True})


class PodIndex(Generic[T]):
    """Finds what has labels, such as pods, by label and by role, instead of by looking at all.

    Filled once for a plan. Then each LoraAdapter finds what has one of its labels, the one that the fewest have, and
    `selects` checks these only. So a plan costs what there is to place, not the product of LoraAdapters and pods.
    """

    def __init__(self, adapters: Iterable[LoraAdapter]) -> None:
        """Take the LoraAdapters that will ask: no other labels than theirs are of interest."""
        selectors = (adapter.spec.selector for adapter in adapters)
        self._keys = frozenset(key for selector in selectors if selector is not None for key in selector.match_labels)
        self._by_label: dict[tuple[str, str], list[tuple[Mapping[str, str], T]]] = {}
        self._by_role: dict[tuple[str, str], list[T]] = {}

    def add(self, labels: Mapping[str, str], what: T) -> None:
        """Add one; what is found later is in the order of adding."""
        fewer, more = sorted((self._keys, labels.keys()), key=len)
        for key in fewer:
            if key in more:
                self._by_label.setdefault((key, labels[key]), []).append((labels, what))
        role = group_and_role(labels)
        if role is not None:
            self._by_role.setdefault(role, []).append(what)

    def of(self, adapter: LoraAdapter) -> Sequence[T]:
        """Return those that the LoraAdapter selects."""
        selector, role = adapter.spec.selector, adapter.spec.role_ref
        if selector is None:
            return [] if role is None else self._by_role.get((role.group, role.role), [])
        lists = [self._by_label.get(label, []) for label in selector.match_labels.items()]
        fewest = min(lists, key=len, default=[])
        if len(lists) == 1:
            return [what for _, what in fewest]
        return [what for labels, what in fewest if selects(adapter, labels)]

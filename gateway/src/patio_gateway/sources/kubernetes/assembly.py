"""From what is cached of Kubernetes' objects to a snapshot: `assemble`. Pure.

One gateway serves all namespaces, so a name in requests is one object's. Whatever claims a name first has it: a
ModelEndpoint since it was created, an adapter since both its LoraAdapter and the ModelEndpoint that serves it were.
Whoever comes later is served under its other names, or not at all (decision 0053). A worker has an adapter only if the
pod's labels show this LoraAdapter as loaded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from patio_api.precedence import Precedence, precedence
from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_gateway.sources.kubernetes.cached_objects import CachedAdapter, CachedEndpoint, CachedPod, LoadedAdapter

Place = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, order=True)
class NameTaken:
    """A name that an object claims and another one has."""

    kind: str
    """ModelEndpoint or LoraAdapter."""
    namespace: str
    object_name: str
    uid: str
    name: str
    """In requests."""
    holder: str
    """The object that has it, as sentences name it."""

    def __str__(self) -> str:
        """Return a sentence."""
        return f"Requests for {self.name!r} go to {self.holder}, which has had the name for longer: choose another name"


@dataclass(frozen=True)
class Assembled:
    """A snapshot, and what is to be said of it."""

    snapshot: Snapshot
    taken: tuple[NameTaken, ...] = ()


def assemble(
    endpoints: Iterable[CachedEndpoint],
    adapters: Iterable[CachedAdapter],
    pods: Iterable[CachedPod],
    clients: tuple[Client, ...] | None,
) -> Assembled:
    """Return what the gateway knows; the order of objects does not matter.

    Args:
        endpoints: all ModelEndpoints.
        adapters: all LoraAdapters.
        pods: those that may get requests.
        clients: who has a key; None: no request needs one.

    """
    by_place = {(each.namespace, each.name): each for each in endpoints}
    names = _names(by_place, _selected(by_place.values(), adapters))
    pods_by_place: dict[Place, list[CachedPod]] = defaultdict(list)
    for pod in pods:
        pods_by_place[pod.namespace, pod.endpoint].append(pod)
    served = {place: names.models[place] for place in sorted(names.models)}
    models = tuple(
        _model(by_place[place], own, names.adapters[place], pods_by_place[place], served)
        for place, own in served.items()
    )
    return Assembled(
        Snapshot(models=models, clients=clients or (), closed=clients is not None), tuple(sorted(names.taken))
    )


def _model(
    endpoint: CachedEndpoint,
    names: list[str],
    adapters: Mapping[LoadedAdapter, str],
    pods: list[CachedPod],
    served: Mapping[Place, list[str]],
) -> Model:
    fallbacks = tuple(
        served[endpoint.namespace, other][0] for other in endpoint.fallbacks if (endpoint.namespace, other) in served
    )
    return replace(
        endpoint.model,
        names=tuple(names),
        adapters=tuple(sorted(adapters.values())),
        workers=tuple(
            Worker(pod.name, pod.address, frozenset(adapters[loaded] for loaded in pod.loaded if loaded in adapters))
            for pod in sorted(pods, key=lambda pod: (pod.name, pod.address))
        ),
        routing=replace(endpoint.model.routing, fallbacks=fallbacks),
    )


def _selected(
    endpoints: Iterable[CachedEndpoint], adapters: Iterable[CachedAdapter]
) -> Mapping[Place, list[CachedAdapter]]:
    """Return the LoraAdapters that each ModelEndpoint selects."""
    by_label: dict[tuple[str, tuple[str, str]], list[CachedAdapter]] = defaultdict(list)
    for adapter in adapters:
        for label in adapter.labels:
            by_label[adapter.namespace, label].append(adapter)
    found: dict[Place, list[CachedAdapter]] = {}
    for endpoint in endpoints:
        if endpoint.adapter_labels:
            rarest = min((by_label.get((endpoint.namespace, label), []) for label in endpoint.adapter_labels), key=len)
            found[endpoint.namespace, endpoint.name] = [
                adapter for adapter in rarest if endpoint.adapter_labels <= adapter.labels
            ]
    return found


@dataclass
class _Names:
    """Who has which names."""

    models: dict[Place, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Of ModelEndpoints that have any."""
    adapters: dict[Place, dict[LoadedAdapter, str]] = field(default_factory=lambda: defaultdict(dict))
    taken: list[NameTaken] = field(default_factory=list)


@dataclass(frozen=True)
class _Claim:
    order: tuple[datetime, int, str, str]
    """A ModelEndpoint goes before an adapter of the same second, so before its own adapters."""
    endpoint: CachedEndpoint
    adapter: CachedAdapter | None = None


def _names(endpoints: Mapping[Place, CachedEndpoint], selected: Mapping[Place, list[CachedAdapter]]) -> _Names:
    """Decide who has which name."""
    found = _Names()
    holders: dict[str, str] = {}
    claims = [_Claim(_order(_age(endpoint), 0), endpoint) for endpoint in endpoints.values()]
    claims += [
        _Claim(_order(max(_age(endpoints[place]), _age(adapter)), 1, _key(adapter)), endpoints[place], adapter)
        for place, chosen in selected.items()
        for adapter in chosen
    ]
    for claim in sorted(claims, key=lambda claim: (claim.order, claim.endpoint.namespace, claim.endpoint.name)):
        endpoint, adapter = claim.endpoint, claim.adapter
        place = endpoint.namespace, endpoint.name
        if adapter is None:
            for name in endpoint.model.names:
                if name in holders:
                    found.taken.append(_taken("ModelEndpoint", endpoint, name, holders[name]))
                else:
                    holders[name] = f"ModelEndpoint {_key(endpoint)}"
                    found.models[place].append(name)
        elif place in found.models:  # without a name of its own it is not served, nor are its adapters
            name = adapter.adapter_name
            if name in holders:
                found.taken.append(_taken("LoraAdapter", adapter, name, holders[name]))
            else:
                holders[name] = f"LoraAdapter {_key(adapter)} of ModelEndpoint {_key(endpoint)}"
                found.adapters[place][adapter.loaded] = name
    return found


def _key(each: CachedEndpoint | CachedAdapter) -> str:
    return f"{each.namespace}/{each.name}"


def _age(each: CachedEndpoint | CachedAdapter) -> Precedence:
    return precedence(each.created, _key(each))


def _order(since: Precedence, rank: int, key: str = "") -> tuple[datetime, int, str, str]:
    return since[0], rank, since[1], key


def _taken(kind: str, claimant: CachedEndpoint | CachedAdapter, name: str, holder: str) -> NameTaken:
    return NameTaken(kind, claimant.namespace, claimant.name, claimant.uid, name, holder)

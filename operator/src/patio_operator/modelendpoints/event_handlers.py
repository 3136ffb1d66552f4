"""Which changes make a ModelEndpoint be planned: its own, of its groups and pods, of demand, profiles and rivals.

What users write into labels, and gateways into reports, becomes a key only where there is an endpoint of that name.
"""

from __future__ import annotations

from collections.abc import Iterator

from patio_api.demand_report import DemandReport, EndpointDemand
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import Key, WorkQueue
from patio_operator.modelendpoints.caches import CachedEndpoint, CachedPod, ClaimIndex


def register(
    queue: WorkQueue,
    endpoints: Informer[CachedEndpoint],
    pods: Informer[CachedPod],
    groups: Informer[tuple[str, str]],
    profiles: Informer[ClusterEngineRuntimeProfile],
    reports: Informer[DemandReport],
    claims: ClaimIndex,
) -> None:
    """Have changes add endpoints to the queue.

    Args:
        queue: of the endpoints.
        endpoints: the endpoints.
        pods: of endpoints.
        groups: of endpoints (`caches.decode_endpoint_group`).
        profiles: what endpoints name.
        reports: of the gateway's replicas.
        claims: is kept current with the endpoints.

    """

    def add(namespace: str, name: str) -> None:
        if endpoints.get(name, namespace) is not None:
            queue.add((namespace, name))

    def on_endpoint(namespace: str, before: CachedEndpoint | None, after: CachedEndpoint | None) -> None:
        endpoint = after or before
        assert endpoint is not None
        queue.add((namespace, endpoint.name))
        old = None if before is None else before.claim
        new = None if after is None else after.claim
        if old != new:
            for key in claims.replace(old, new):
                add(*key)

    def on_pod(namespace: str, before: CachedPod | None, after: CachedPod | None) -> None:
        for name in {cached.endpoint for cached in (before, after) if cached is not None}:
            add(namespace, name)

    def on_group(namespace: str, before: tuple[str, str] | None, after: tuple[str, str] | None) -> None:
        for name in {cached[0] for cached in (before, after) if cached is not None}:
            add(namespace, name)

    def on_profile(
        _: str, before: ClusterEngineRuntimeProfile | None, after: ClusterEngineRuntimeProfile | None
    ) -> None:
        profile = after or before
        assert profile is not None
        if (before is None) == (after is None):  # groups are written once: only whether there is one matters
            return
        for namespace, name in endpoints.object_keys():
            cached = endpoints.get(name, namespace)
            if cached is not None and profile.metadata.name in cached.profiles:
                queue.add((namespace, name))

    def on_report(_: str, before: DemandReport | None, after: DemandReport | None) -> None:
        old, new = _entries(before), _entries(after)
        for endpoint in old.keys() | new.keys():
            if old.get(endpoint) != new.get(endpoint):
                namespace, _slash, name = endpoint.partition("/")
                add(namespace, name)

    endpoints.add_event_handler(on_endpoint)
    pods.add_event_handler(on_pod)
    groups.add_event_handler(on_group)
    profiles.add_event_handler(on_profile)
    reports.add_event_handler(on_report)


def existing_keys(endpoints: Informer[CachedEndpoint]) -> Iterator[Key]:
    """Yield the endpoints that there are."""
    yield from endpoints.object_keys()


def _entries(report: DemandReport | None) -> dict[str, EndpointDemand]:
    return {} if report is None else {entry.endpoint: entry for entry in report.spec.endpoints}

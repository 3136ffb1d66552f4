"""In which of Envoy's clusters a ModelEndpoint is. Pure.

Envoy 1.40 opens an inotify instance for each watched file and cluster, and aborts where the kernel gives no more of
them; Linux gives a user 128. So the number of clusters must not grow with the ModelEndpoints: each of them is in one of
a few groups, and a group is a file of endpoints that two clusters read. One of the two prefers a pod by the request's
beginning, the other takes the pod with the least requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from patio_gateway.snapshot import Model

SHARDS = 8
"""Files over which the ModelEndpoints of one bound are spread, so that a pod that comes or goes rewrites an eighth."""

LOAD_BOUNDS = (110, 125, 150, 200)
"""Bounds of load in percent of the mean that there are clusters for; a ModelEndpoint gets the nearest."""


@dataclass(frozen=True, order=True)
class Group:
    """ModelEndpoints that share a file and two clusters."""

    bound: int
    """In percent of the mean: the most requests in flight that a worker gets by affinity."""
    shard: int

    @property
    def name(self) -> str:
        """What the file and both clusters are named by."""
        return f"{self.bound}-{self.shard}"


def group_of(model: Model) -> Group:
    """Return a ModelEndpoint's group. It depends on nothing but the endpoint's name and its bound."""
    wanted = model.routing.load_bound * 100
    return Group(
        bound=min(LOAD_BOUNDS, key=lambda bound: abs(bound - wanted)),
        shard=crc32(model.endpoint.encode()) % SHARDS,
    )


def affinity_cluster(group: Group) -> str:
    """Return the name of the cluster that prefers a pod by session or prompt."""
    return f"affinity-{group.name}"


def least_request_cluster(group: Group) -> str:
    """Return the name of the cluster that takes the pod with the least requests in flight."""
    return f"least-request-{group.name}"

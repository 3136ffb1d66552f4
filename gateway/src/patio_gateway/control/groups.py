"""In which of Envoy's clusters a ModelEndpoint is. Pure.

A group is a file of endpoints that two clusters read: one prefers a pod by the request's beginning and bounds that by
the load of the cluster, the other takes the pod with the least requests. Each ModelEndpoint has a group of its own, as
long as the kernel lets Envoy watch so many files. Envoy 1.40 opens an inotify instance for each cluster and watched
file, and aborts where it gets none; Linux gives a user 128 of them. Where there are more ModelEndpoints than that, all
of them share a fixed number of groups. They are then bounded by what their group has to do, not by their own load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from patio_gateway.snapshot import Model

SHARDS = 8
"""Groups of each bound that ModelEndpoints share."""

LOAD_BOUNDS = (110, 125, 150, 200)
"""Bounds of load in percent of the mean that shared groups have; a ModelEndpoint gets the nearest."""

LEAST_BOUND, MOST_BOUND = 100, 1000

KEPT_INSTANCES = 48
"""Instances of inotify that are left to other programs of the user, and to what else Envoy watches."""


@dataclass(frozen=True, order=True)
class Group:
    """ModelEndpoints that share a file and two clusters."""

    name: str
    """What the file and both clusters are named by; plain characters only."""
    bound: int
    """In percent of the mean: the most requests in flight that a worker gets by affinity."""

    @property
    def affinity(self) -> str:
        """The name of the cluster that prefers a pod by session or prompt."""
        return f"affinity-{self.name}"

    @property
    def least_request(self) -> str:
        """The name of the cluster that takes the pod with the least requests in flight."""
        return f"least-request-{self.name}"


def most_own_groups(inotify_instances: int) -> int:
    """Return how many ModelEndpoints may have a group of their own, of so many instances that the kernel gives."""
    return max(0, (inotify_instances - KEPT_INSTANCES) // 2)


def groups_of(models: Sequence[Model], most_own: int) -> Mapping[str, Group]:
    """Return the group of each ModelEndpoint, by the endpoint's name."""
    of = _own if len(models) <= most_own else _shared
    return {model.endpoint: of(model) for model in models}


def _own(model: Model) -> Group:
    bound = round(model.routing.load_bound * 100)
    readable = re.sub(r"[^A-Za-z0-9_-]", "_", model.endpoint)[:80]
    return Group(
        # Other names may read the same; the sum tells them apart.
        name=f"{readable}-{crc32(model.endpoint.encode('utf-8', 'replace')):08x}",
        bound=min(max(bound, LEAST_BOUND), MOST_BOUND),
    )


def _shared(model: Model) -> Group:
    wanted = model.routing.load_bound * 100
    bound = min(LOAD_BOUNDS, key=lambda each: abs(each - wanted))
    return Group(name=f"shared-{bound}-{crc32(model.endpoint.encode('utf-8', 'replace')) % SHARDS}", bound=bound)

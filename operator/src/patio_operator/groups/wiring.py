"""Puts the feature together: from a client and informers to a queue that realises RoleBasedGroups."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube import events
from patio_kube.client import KubeClient
from patio_kube.informer import Informer
from patio_kube.resources import LEASE
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.groups import event_handlers
from patio_operator.groups.caches import CachedGroup
from patio_operator.groups.reconciler import GroupReconciler
from patio_operator.groups.upstream.detector import UpstreamDetector
from patio_operator.settings import Settings
from patio_operator.telemetry.metrics import Metrics


@dataclass(frozen=True)
class Groups:
    """The feature. Its `detector` runs in every replica."""

    client: KubeClient
    settings: Settings
    metrics: Metrics
    detector: UpstreamDetector
    queue: WorkQueue
    reconciler: GroupReconciler
    mode_changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def observing(self) -> bool:
        """Whether groups are upstream's controller's."""
        return self.detector.observing

    async def act(self) -> None:
        """Do the leader's work until cancelled."""
        self.metrics.groups.clear()  # every group gets a pass now
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.queue.run(self.metrics.measured("RoleBasedGroup", self.reconciler.reconcile)))
            tasks.create_task(self._record_mode(), name="mode")

    def on_mode(self) -> None:
        """Take in that groups are now, or are no longer, upstream's."""
        self.metrics.observing.set(self.observing)
        self.mode_changed.set()
        self.queue.add_all()

    async def _record_mode(self) -> None:
        """Record in an event, on the Lease, who realises groups: when this replica begins to lead, and each change."""
        lease = {
            "apiVersion": LEASE.api_version,
            "kind": LEASE.kind,
            "metadata": {"name": self.settings.lease, "namespace": self.settings.namespace},
        }
        while True:
            self.mode_changed.clear()
            reason = "Observing" if self.observing else "Managing"
            await events.record(self.client, lease, "Normal", reason, self.detector.sentence)
            await self.mode_changed.wait()


def wire(
    client: KubeClient,
    groups: Informer[CachedGroup],
    members: Iterable[Informer[event_handlers.Member]],
    profiles: Informer[ClusterEngineRuntimeProfile],
    settings: Settings,
    metrics: Metrics,
) -> Groups:
    """Return the feature.

    Args:
        client: for its passes.
        groups: the groups.
        members: what is made of groups.
        profiles: what groups name.
        settings: of the operator.
        metrics: count its passes.

    """
    detector = UpstreamDetector(client, settings.groups, settings.upstream_namespaces, settings.service_name)
    queue = WorkQueue("group", partial(event_handlers.existing_keys, groups))
    reconciler = GroupReconciler(client, groups, profiles, lambda: detector.observing, time.monotonic)
    event_handlers.register(queue, groups, members, profiles, reconciler.groups_with)
    feature = Groups(client, settings, metrics, detector, queue, reconciler)
    detector.start(feature.on_mode)
    metrics.queues.register("RoleBasedGroup", queue)
    reconciler.on_status = metrics.groups.put
    return feature

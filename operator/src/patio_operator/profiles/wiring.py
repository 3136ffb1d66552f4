"""Puts the feature together: from a client and informers to a queue that rolls changes of profiles out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import KubeClient
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.pods.injected_pod import CachedPod
from patio_operator.profiles import event_handlers
from patio_operator.profiles.reconciler import ProfileReconciler
from patio_operator.telemetry.metrics import Metrics

PROFILES_AT_ONCE = 2


@dataclass(frozen=True)
class Profiles:
    """The feature."""

    queue: WorkQueue
    reconciler: ProfileReconciler
    metrics: Metrics

    async def act(self) -> None:
        """Do the leader's work until cancelled."""
        self.metrics.profiles.clear()  # every profile gets a pass now
        await self.queue.run(self.metrics.measured("ClusterEngineRuntimeProfile", self.reconciler.reconcile))


def wire(
    client: KubeClient,
    pods: Informer[CachedPod],
    profiles: Informer[ClusterEngineRuntimeProfile],
    namespace: str,
    observing: Callable[[], bool],
    metrics: Metrics,
) -> Profiles:
    """Return the feature.

    Args:
        client: for its passes.
        pods: the injected pods.
        profiles: the profiles.
        namespace: the operator's own, where profiles are tried by dry runs.
        observing: tells whether groups are upstream's controller's.
        metrics: count its passes.

    """
    queue = WorkQueue("profile", partial(event_handlers.existing_keys, profiles), workers=PROFILES_AT_ONCE)
    event_handlers.register(queue, pods, profiles)
    reconciler = ProfileReconciler(client, pods, namespace, time.monotonic, observing)
    metrics.queues.register("ClusterEngineRuntimeProfile", queue)
    reconciler.on_status = partial(metrics.profiles.put, "")
    return Profiles(queue, reconciler, metrics)

"""Puts the feature together: from a client and informers to a queue that realises ModelEndpoints."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from patio_kube.client import KubeClient
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.modelendpoints import event_handlers
from patio_operator.modelendpoints.reconciler import EndpointReconciler, Options, Sources
from patio_operator.telemetry.metrics import Metrics

ENDPOINTS_AT_ONCE = 4


@dataclass(frozen=True)
class ModelEndpoints:
    """The feature."""

    queue: WorkQueue
    reconciler: EndpointReconciler
    metrics: Metrics

    async def act(self) -> None:
        """Do the leader's work until cancelled."""
        await self.queue.run(self.metrics.measured("ModelEndpoint", self.reconciler.reconcile))


def wire(
    client: KubeClient, sources: Sources, groups: Informer[tuple[str, str]], options: Options, metrics: Metrics
) -> ModelEndpoints:
    """Return the feature.

    Args:
        client: for its passes.
        sources: what passes read.
        groups: those of endpoints (`caches.decode_endpoint_group`).
        options: of the operator.
        metrics: count its passes.

    """
    queue = WorkQueue(
        "model endpoint", partial(event_handlers.existing_keys, sources.endpoints), workers=ENDPOINTS_AT_ONCE
    )
    event_handlers.register(
        queue, sources.endpoints, sources.pods, groups, sources.profiles, sources.reports, sources.claims
    )
    reconciler = EndpointReconciler(client, sources, options, time.monotonic)
    metrics.queues.register("ModelEndpoint", queue)
    return ModelEndpoints(queue, reconciler, metrics)

"""Puts the feature together: from clients and informers to a queue that plans LoraAdapters."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import httpx

from patio_kube.client import KubeClient
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import WorkQueue
from patio_operator.loraadapters import event_handlers
from patio_operator.loraadapters.caches import CachedAdapter
from patio_operator.loraadapters.dispatcher import Dispatcher
from patio_operator.loraadapters.handshake import Handshakes
from patio_operator.loraadapters.label_writer import LabelWriter
from patio_operator.loraadapters.planner.services import CachedService
from patio_operator.loraadapters.reconciler import AdapterReconciler
from patio_operator.loraadapters.secret_reader import SecretReader
from patio_operator.loraadapters.service_writer import ServiceWriter
from patio_operator.loraadapters.sidecar_watch import SidecarWatch
from patio_operator.loraadapters.status_writer import StatusWriter
from patio_operator.pods.injected_pod import CachedPod
from patio_operator.security.token_reviews import TokenReviewer
from patio_operator.settings import Settings
from patio_operator.telemetry import statuses
from patio_operator.telemetry.metrics import Metrics

NAMESPACES_AT_ONCE = 16
"""In which LoraAdapters are planned at once: a pass may wait for its sidecars' first answers."""


@dataclass(frozen=True)
class LoraAdapters:
    """The feature."""

    queue: WorkQueue
    reconciler: AdapterReconciler
    secrets: SecretReader
    """Its `watches` run in every replica."""
    metrics: Metrics

    async def act(self) -> None:
        """Do the leader's work until cancelled."""
        try:
            await self.reconciler.begin()
            await self.queue.run(self.metrics.measured("LoraAdapter", self.reconciler.reconcile))
        finally:
            await self.reconciler.end()


def wire(
    client: KubeClient,
    watching_client: KubeClient,
    http: httpx.AsyncClient,
    auth: Callable[[str], httpx.Auth],
    pods: Informer[CachedPod],
    adapters: Informer[CachedAdapter],
    services: Informer[CachedService],
    settings: Settings,
    metrics: Metrics,
) -> LoraAdapters:
    """Return the feature.

    Args:
        client: for its passes.
        watching_client: for the watches of Secrets.
        http: for requests to sidecars.
        auth: signs the requests to a pod, by its UID.
        pods: the injected pods.
        adapters: the LoraAdapters.
        services: the Services of LoraAdapters.
        settings: of the operator.
        metrics: count its passes.

    """
    rng = random.Random()  # noqa: S311 - jitter only
    queue = WorkQueue(
        "adapters", partial(event_handlers.existing_keys, pods, adapters, services), workers=NAMESPACES_AT_ONCE
    )
    event_handlers.register(queue, pods, adapters, services)
    metrics.queues.register("LoraAdapter", queue)
    adapters.add_event_handler(partial(_follow_status, metrics))

    def on_change(namespace: str) -> None:
        queue.add((namespace,))

    def on_secret(namespace: str, name: str) -> None:
        refs = (cached.adapter.spec.source.secret_ref for cached in adapters.all(namespace))
        if any(ref is not None and ref.name == name for ref in refs):
            on_change(namespace)

    secrets = SecretReader(watching_client, settings.secret_namespaces, on_secret)
    watch = SidecarWatch(on_change, client.now, rng, ask_loopback=settings.ask_loopback)
    watch.on_call = metrics.called
    metrics.sidecars.read = lambda: watch.reached
    handshakes = Handshakes(TokenReviewer(client).review)
    dispatcher = Dispatcher(http, auth, secrets, handshakes, client.now, rng, on_change)
    reconciler = AdapterReconciler(
        client,
        pods,
        adapters,
        secrets,
        watch,
        dispatcher,
        LabelWriter(client, pods, client.now, rng, on_change, dispatcher.in_progress),
        ServiceWriter(client, services, time.monotonic),
        StatusWriter(client, adapters, time.monotonic),
        client.now,
        time.monotonic,
    )
    return LoraAdapters(queue, reconciler, secrets, metrics)


def _follow_status(metrics: Metrics, namespace: str, before: CachedAdapter | None, after: CachedAdapter | None) -> None:
    cached = after or before
    assert cached is not None
    state = None if after is None else partial(statuses.of_adapter, after.status.rest)
    metrics.adapters.put(namespace, cached.adapter.metadata.name, state)

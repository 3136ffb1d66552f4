"""Wiring: reads from top to bottom. Settings, clients, caches, features, webhooks, then everything runs.

The only module that knows all the others. Everything runs in one event loop under one TaskGroup: what ends
unexpectedly ends the process, and the kubelet starts it again with nothing lost, since nothing is kept here. What must
never wait for the rest has connections of its own (`KubeClients`).
Every replica watches, answers admissions and looks after their certificate; `act` is what the leader alone does.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
from prometheus_client import disable_created_metrics

from patio_api.labels import FIELD_MANAGER
from patio_kube.client import KubeClient, Observe
from patio_kube.informer import Informer
from patio_kube.leader_election import LeaderElector
from patio_kube.pending_events import PendingEvents
from patio_kube.runtime import loop_lag
from patio_kube.runtime.open_file_limit import raise_file_limit
from patio_kube.runtime.repetition import every, until_done
from patio_kube.unreadable_objects import UnreadableObjects
from patio_operator import __version__
from patio_operator.caches import Caches
from patio_operator.certificates import wiring as certificate_wiring
from patio_operator.certificates.authority import Ends
from patio_operator.certificates.rotation import refresh_once
from patio_operator.groups import wiring as group_wiring
from patio_operator.handlers import runner
from patio_operator.injection import CallerKeys
from patio_operator.loraadapters import wiring as adapter_wiring
from patio_operator.loraadapters.bounded_transport import open_client
from patio_operator.profiles import wiring as profile_wiring
from patio_operator.security.scrapers import Scrapers
from patio_operator.security.signing_key_rotation import SigningKeyRotation
from patio_operator.settings import Settings, SettingsError
from patio_operator.telemetry.health import Rejection, health_application, metrics_application
from patio_operator.telemetry.logs import set_up_logging
from patio_operator.telemetry.metrics import Metrics
from patio_operator.webhooks import loraadapters as adapter_reviews
from patio_operator.webhooks import profiles as profile_reviews
from patio_operator.webhooks import server
from patio_operator.webhooks.pod_mutation_reads import PodMutationReads

log = logging.getLogger(__name__)

KEY_CHECK_SECONDS = 60.0
"""How often the key is checked that requests to sidecars are signed with."""


def main() -> None:
    """Run the operator until it gets a signal to stop. Exit code 2: the settings are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m patio_operator",
        description="Patio's operator. It is configured by the variables that the Helm chart sets (PATIO_…).",
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.parse_args()
    try:
        settings = Settings.from_environment(os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    set_up_logging(settings.log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client 0.26 has no type there
    log.info("limit of open files and connections: %d", raise_file_limit())
    asyncio.run(run(settings))


@dataclass(frozen=True)
class KubeClients:
    """Connections to the API server, apart by what they are for: none waits for a place in the pool of another."""

    passes: KubeClient
    """Of reconcilers, and of everything that has none of its own."""
    watches: KubeClient
    """Of which each is a connection for as long as it lasts."""
    admissions: KubeClient
    lease: KubeClient

    scrapers: KubeClient
    """Of which few are enough: the callers of the metrics' port decide how often it is asked."""

    @classmethod
    async def connect(cls, observe: Observe) -> KubeClients:
        """Connect all; `observe` is told of every request."""
        connect = partial(KubeClient.connect, FIELD_MANAGER)
        clients = cls(await connect(), await connect(0), await connect(), await connect(), await connect(4))
        for client in clients:
            client.observe = observe
        return clients

    def __iter__(self) -> Iterator[KubeClient]:
        return iter((self.passes, self.watches, self.admissions, self.lease, self.scrapers))

    async def close(self) -> None:
        """Close all."""
        for client in self:
            await client.close()


async def run(settings: Settings) -> None:
    """Run everything until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    _on_signals(stop)
    metrics = Metrics()
    metrics.built(__version__)
    clients = await KubeClients.connect(metrics.requested)
    try:
        async with open_client(metrics.called) as http:
            await _run(settings, clients, http, metrics, stop)
    finally:
        await clients.close()
    log.info("stopped")


async def _run(
    settings: Settings, clients: KubeClients, http: httpx.AsyncClient, metrics: Metrics, stop: asyncio.Event
) -> None:
    serving = asyncio.Event()
    # Readiness does not depend on leadership: every replica that answers admissions is ready.
    open_metrics = None if settings.metrics_port else metrics
    health = await server.serve(
        health_application(lambda: serving.is_set() and not stop.is_set(), open_metrics), settings.health_port
    )

    # What every replica keeps current: the objects of the API server, the signing key, the webhook's certificate.
    with_groups = settings.groups != "off"
    caches = Caches(clients.watches, groups=with_groups, namespaces=settings.watch_namespaces)
    pending_events = PendingEvents(clients.passes)
    unreadable = UnreadableObjects(pending_events, "operator")
    for informer in (caches.pods, caches.adapters, caches.groups, caches.profiles):
        informer.on_unreadable = unreadable.note
    signing_key = SigningKeyRotation(clients.passes, settings)
    certificate = certificate_wiring.wire(clients.passes, settings)
    check_certificate = partial(refresh_once, certificate)
    metrics.certificate_expiry.read = lambda: _ends(certificate.ends)
    metrics.signing_key_created.read = lambda: {"": key.made.timestamp()} if (key := signing_key.current) else {}

    # The features, side by side.
    groups = group_wiring.wire(
        clients.passes, caches.groups, (caches.group_pods, caches.stateful_sets), caches.profiles, settings, metrics
    )
    adapters = adapter_wiring.wire(
        clients.passes,
        clients.watches,
        http,
        signing_key.auth,
        caches.pods,
        caches.adapters,
        caches.services,
        settings,
        metrics,
    )
    profiles = profile_wiring.wire(
        clients.passes, caches.pods, caches.profiles, settings.namespace, lambda: groups.observing, metrics
    )
    _watch_the_watches((*caches.informers, *adapters.secrets.informers), metrics)

    async def act() -> None:
        """Do the leader's work until cancelled."""
        caches.retry_now()
        async with asyncio.TaskGroup() as acting:
            acting.create_task(adapters.act(), name="adapters")
            acting.create_task(groups.act(), name="groups")
            acting.create_task(profiles.act(), name="profiles")
            acting.create_task(pending_events.run(), name="events of unreadable objects")

    elector = LeaderElector(clients.lease, settings.namespace, settings.lease, settings.pod_name, metrics.leads)
    elector.on_renewal_failure = metrics.lease_renewal_failures.inc
    metrics.lease_transitions.read = lambda: {} if elector.transitions is None else {"": elector.transitions}

    # What admissions need has to be there before any is answered.
    for what, check, enough in (
        ("webhook certificate", check_certificate, lambda: certificate.serves),
        ("signing key", signing_key.check, lambda: signing_key.current is not None),
        ("upstream's controller", groups.detector.check, lambda: False),
    ):
        if not await until_done(what, check, stop, enough):
            await health.cleanup()
            return
    application = server.application(
        PodMutationReads(clients.admissions, caches),
        metrics,
        lambda: CallerKeys((signing_key.key.public,), secrets.token_urlsafe(24)),
        observing=lambda: groups.observing and with_groups,
        stopping=stop.is_set,
    )
    profile_reviews.add_route(application, clients.admissions, settings.namespace)
    adapter_reviews.add_route(application, clients.admissions, caches)
    webhook = await server.serve(application, settings.webhook_port, certificate.context)
    servers = [webhook, health]
    if settings.metrics_port:
        admit = partial(_admitted, Scrapers(clients.scrapers.create, time.monotonic))
        servers.append(
            await server.serve(metrics_application(metrics, admit), settings.metrics_port, certificate.context)
        )
    serving.set()
    log.info("started: version %s, %s in namespace %s", __version__, settings.pod_name, settings.namespace)

    try:
        async with asyncio.TaskGroup() as tasks:
            campaign = tasks.create_task(elector.run(act), name="leadership")
            kept = [
                tasks.create_task(every(certificate.check_seconds, "webhook certificate", check_certificate)),
                tasks.create_task(every(KEY_CHECK_SECONDS, "signing key", signing_key.check)),
                tasks.create_task(groups.detector.run(), name="upstream"),
                tasks.create_task(loop_lag.measure(metrics.loop_lag.observe), name="loop lag"),
                *(tasks.create_task(watch, name="watch") for watch in (*caches.watches(), *adapters.secrets.watches())),
            ]
            kopf_ends = asyncio.Event()
            tasks.create_task(
                runner.run(
                    settings.pod_name,
                    lambda name: profiles.queue.add((name,)),
                    partial(_on_signals, stop),
                    stop,
                    kopf_ends,
                ),
                name="kopf",
            )
            await stop.wait()
            # The successor first; admissions go on until this pod is no longer among the Service's endpoints.
            campaign.cancel()
            await asyncio.wait((campaign,))
            await asyncio.sleep(settings.linger_seconds)
            for task in kept:
                task.cancel()
            await asyncio.gather(*map(server.end, servers))
            kopf_ends.set()
    finally:
        for listening in servers:
            await listening.cleanup()


async def _admitted(scrapers: Scrapers, authorization: str | None) -> Rejection | None:
    rejection = await scrapers.rejection(authorization)
    return None if rejection is None else Rejection(rejection.status, rejection.message)


def _watch_the_watches(every_informer: Iterable[Informer[Any]], metrics: Metrics) -> None:
    """Count lost watches, and show which resources are current; a resource may have several informers."""
    by_resource: dict[str, list[Informer[Any]]] = {}
    for informer in every_informer:
        by_resource.setdefault(informer.kind.plural, []).append(informer)
        metrics.watch_restarts.labels(informer.kind.plural)
        informer.on_lost = lambda resource: metrics.watch_restarts.labels(resource.plural).inc()
    metrics.watch_synced.read = lambda: {
        resource: float(all(informer.synced for informer in informers)) for resource, informers in by_resource.items()
    }


def _ends(ends: Ends | None) -> dict[str, float]:
    return {} if ends is None else {"serving": ends.serving.timestamp(), "ca": ends.ca.timestamp()}


def _on_signals(stop: asyncio.Event) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)

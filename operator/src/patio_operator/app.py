"""Wiring: settings, the connections to the API server, the queues, the webhook server, the health server.

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
import random
import secrets
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import httpx

from patio_operator import __version__
from patio_operator.caches import Caches
from patio_operator.certificates import crd_bundle
from patio_operator.certificates.authority import Periods
from patio_operator.certificates.rotation import MountedCertificate, ServingCertificate, SharedCertificate, refresh_once
from patio_operator.event_handlers import EventHandlers, group_keys, namespace_keys, profile_keys
from patio_operator.groups.reconciler import GroupReconciler
from patio_operator.groups.upstream.detector import UpstreamDetector
from patio_operator.handlers import runner
from patio_operator.injection import CallerKeys
from patio_operator.kube import events
from patio_operator.kube.client import ApiError, KubeClient
from patio_operator.kube.leader_election import LeaderElector
from patio_operator.kube.resources import (
    CUSTOM_RESOURCE_DEFINITION,
    LEASE,
    MUTATING_WEBHOOK_CONFIGURATION,
    VALIDATING_WEBHOOK_CONFIGURATION,
)
from patio_operator.kube.unreadable_objects import UnreadableObjects
from patio_operator.loraadapters.bounded_transport import open_client
from patio_operator.loraadapters.dispatcher import Dispatcher
from patio_operator.loraadapters.handshake import Handshakes
from patio_operator.loraadapters.label_writer import LabelWriter
from patio_operator.loraadapters.reconciler import AdapterReconciler
from patio_operator.loraadapters.secret_reader import SecretReader
from patio_operator.loraadapters.service_writer import ServiceWriter
from patio_operator.loraadapters.sidecar_watch import SidecarWatch
from patio_operator.loraadapters.status_writer import StatusWriter
from patio_operator.profiles.reconciler import ProfileReconciler
from patio_operator.runtime.open_file_limit import raise_file_limit
from patio_operator.runtime.workqueue import Key, WorkQueue
from patio_operator.security.auth import ProofAuth
from patio_operator.security.signing_key_rotation import SigningKeyRotation
from patio_operator.security.token_reviews import TokenReviewer
from patio_operator.settings import Settings, SettingsError
from patio_operator.telemetry import Telemetry, health_application, set_up_logging
from patio_operator.webhooks import loraadapters as adapter_reviews
from patio_operator.webhooks import profiles as profile_reviews
from patio_operator.webhooks import server
from patio_operator.webhooks.pod_mutation_reads import PodMutationReads
from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

KEY_CHECK_SECONDS = 60.0
"""How often the key is looked at that calls to sidecars are signed with."""
FIRST_PAUSE = 0.8
LONGEST_PAUSE = 15.0
"""Seconds between tries of what has to be done at the start."""
NAMESPACES_AT_ONCE = 16
"""In which LoraAdapters are planned at once: a pass may wait for its sidecars' first answers."""
PROFILES_AT_ONCE = 2


def main() -> None:
    """Run the operator until it is told to stop. Exit code 2: the settings are wrong."""
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
    log.info("files and connections that may be open: %d", raise_file_limit())
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

    @classmethod
    async def connect(cls) -> KubeClients:
        """Connect all."""
        connect = KubeClient.connect
        return cls(await connect(), await connect(0), await connect(), await connect())

    async def close(self) -> None:
        """Close all."""
        for one in (self.passes, self.watches, self.admissions, self.lease):
            await one.close()


async def run(settings: Settings) -> None:
    """Run everything until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    _on_signals(stop)
    clusters = await KubeClients.connect()
    telemetry = Telemetry()
    try:
        async with open_client() as http:
            await _run(settings, clusters, http, telemetry, stop)
    finally:
        await clusters.close()
    log.info("stopped")


async def _run(
    settings: Settings, clusters: KubeClients, http: httpx.AsyncClient, telemetry: Telemetry, stop: asyncio.Event
) -> None:
    cluster = clusters.passes
    serving = asyncio.Event()
    # Readiness does not depend on leadership: every replica that answers admissions is ready.
    health = await server.serve(
        health_application(telemetry, lambda: serving.is_set() and not stop.is_set()), settings.health_port
    )
    mode_changed = asyncio.Event()
    looks_at_groups = settings.groups != "off"

    def on_mode() -> None:
        mode_changed.set()
        telemetry.observing.set(detector.observing)
        groups.add_all()

    signing = SigningKeyRotation(cluster, settings)
    known = Caches(clusters.watches, groups=looks_at_groups, namespaces=settings.watch_namespaces)

    def wake_adapters(namespace: str) -> None:
        adapters.add((namespace,))

    def on_secret(namespace: str, name: str) -> None:
        refs = (one.adapter.spec.source.secret_ref for one in known.adapters.all(namespace))
        if any(ref is not None and ref.name == name for ref in refs):
            adapters.add((namespace,))

    def auth(pod_uid: str) -> httpx.Auth:
        return ProofAuth(pod_uid, lambda: signing.key, signing.look_up)

    rng = random.Random()  # noqa: S311 - jitter only
    credentials = SecretReader(clusters.watches, settings.secret_namespaces, on_secret)
    handshakes = Handshakes(TokenReviewer(cluster).review)
    orders = Dispatcher(http, auth, credentials, handshakes, cluster.now, rng, wake_adapters)
    adapter_reconciler = AdapterReconciler(
        cluster,
        known,
        credentials,
        SidecarWatch(wake_adapters, cluster.now, rng, ask_loopback=settings.ask_loopback),
        orders,
        LabelWriter(cluster, known.pods, cluster.now, rng, wake_adapters, orders.under_way),
        ServiceWriter(cluster, known.services, time.monotonic),
        StatusWriter(cluster, known.adapters, time.monotonic),
        cluster.now,
        time.monotonic,
    )
    group_reconciler = GroupReconciler(cluster, known, lambda: detector.observing, time.monotonic)
    profile_reconciler = ProfileReconciler(
        cluster, known, settings.namespace, time.monotonic, lambda: detector.observing
    )
    adapters = WorkQueue(
        "adapters",
        _measured(telemetry, "LoraAdapter", adapter_reconciler.reconcile),
        lambda: namespace_keys(known),
        workers=NAMESPACES_AT_ONCE,
    )
    groups = WorkQueue(
        "group", _measured(telemetry, "RoleBasedGroup", group_reconciler.reconcile), lambda: group_keys(known)
    )
    profiles = WorkQueue(
        "profile",
        _measured(telemetry, "ClusterEngineRuntimeProfile", profile_reconciler.reconcile),
        lambda: profile_keys(known),
        workers=PROFILES_AT_ONCE,
    )
    detector = UpstreamDetector(cluster, settings.groups, settings.upstream_namespaces, settings.service_name)
    detector.start(on_mode)
    EventHandlers(known, adapters, groups, profiles, group_reconciler.groups_with)
    unreadable = UnreadableObjects(cluster)
    for watched in (known.pods, known.adapters, known.groups, known.profiles):
        watched.on_unreadable = unreadable.note

    async def plan_adapters() -> None:
        await adapter_reconciler.begin()
        await adapters.run()

    async def act() -> None:
        """Run the leader's work until cancelled."""
        known.retry_now()
        try:
            async with asyncio.TaskGroup() as acting:
                acting.create_task(plan_adapters(), name="adapters")
                acting.create_task(groups.run(), name="groups")
                acting.create_task(profiles.run(), name="profiles")
                acting.create_task(unreadable.run(), name="unreadable objects")
                acting.create_task(_tell_mode(cluster, settings, detector, mode_changed), name="mode")
        finally:
            await adapter_reconciler.end()

    keeper = _keeper(cluster, settings)

    async def keep_certificate() -> str | None:
        return await refresh_once(keeper)

    async def keep_signing_key() -> str | None:
        try:
            await signing.keep()
        except ApiError as error:
            return error.message
        return None

    def new_access() -> CallerKeys:
        return CallerKeys((signing.key.public,), secrets.token_urlsafe(24))

    for what, work in (
        ("webhook certificate", keep_certificate),
        ("signing key", keep_signing_key),
        ("upstream's controller", detector.looked),
    ):
        if not await _until_done(what, work, stop):
            await health.cleanup()
            return
    elector = LeaderElector(clusters.lease, settings.namespace, settings.lease, settings.pod_name, telemetry.leader.set)
    lookups = PodMutationReads(clusters.admissions, known)
    application = server.application(
        lookups, telemetry, new_access, observing=lambda: detector.observing and looks_at_groups, stopping=stop.is_set
    )
    profile_reviews.add_route(application, clusters.admissions, settings.namespace)
    adapter_reviews.add_route(application, clusters.admissions, known)
    webhook = await server.serve(application, settings.webhook_port, keeper.context)
    serving.set()
    log.info("started: version %s, %s in namespace %s", __version__, settings.pod_name, settings.namespace)
    try:
        async with asyncio.TaskGroup() as tasks:
            campaign = tasks.create_task(elector.run(act), name="leadership")
            kept = [
                tasks.create_task(_keep("webhook certificate", keep_certificate, keeper.check_seconds)),
                tasks.create_task(_keep("signing key", keep_signing_key, KEY_CHECK_SECONDS)),
                tasks.create_task(detector.run(), name="upstream"),
                *(tasks.create_task(one, name="watch") for one in (*known.watches(), *credentials.watches())),
            ]
            watching_ends = asyncio.Event()
            tasks.create_task(
                runner.run(
                    settings.pod_name,
                    lambda name: profiles.add((name,)),
                    partial(_on_signals, stop),
                    stop,
                    watching_ends,
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
            await webhook.cleanup()
            await health.cleanup()
            watching_ends.set()
    finally:
        await webhook.cleanup()
        await health.cleanup()


def _keeper(cluster: KubeClient, settings: Settings) -> ServingCertificate:
    if settings.certificate_folder:

        async def tell_crd(ca: bytes) -> None:
            await crd_bundle.keep(cluster, settings.service_name, settings.namespace, ca)

        return MountedCertificate(Path(settings.certificate_folder), tell_crd)
    periods = Periods(timedelta(hours=settings.certificate_hours), timedelta(hours=settings.certificate_renew_hours))
    trusting = [
        (MUTATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (VALIDATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (CUSTOM_RESOURCE_DEFINITION, crd_bundle.NAME),
    ]
    return SharedCertificate(
        cluster, settings.namespace, settings.webhook_secret, settings.service_name, periods, trusting
    )


async def _tell_mode(
    cluster: KubeClient, settings: Settings, detector: UpstreamDetector, changed: asyncio.Event
) -> None:
    """Say in an event, on the Lease, who realises groups: when this replica begins to lead, and at each change."""
    lease = {
        "apiVersion": LEASE.api_version,
        "kind": LEASE.kind,
        "metadata": {"name": settings.lease, "namespace": settings.namespace},
    }
    while True:
        changed.clear()
        reason = "Observing" if detector.observing else "Managing"
        await events.record(cluster, lease, "Normal", reason, detector.sentence)
        await changed.wait()


def _on_signals(stop: asyncio.Event) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)


async def _keep(what: str, keep: Callable[[], Awaitable[str | None]], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        try:
            problem = await keep()
        except Exception as fault:  # noqa: BLE001 - the outermost place: it ends nothing else
            problem = f"{type(fault).__name__}: {fault}"
        if problem is not None:
            log.warning("%s not checked: %s", what, problem)


async def _until_done(what: str, work: Callable[[], Awaitable[str | None]], stop: asyncio.Event) -> bool:
    """Repeat until there is no problem: at its start an operator has nothing else to do. False: it is to end first."""

    async def repeat() -> None:
        failures = 0
        while (problem := await work()) is not None:
            failures += 1
            jitter = random.random()  # noqa: S311 - no secret
            pause = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), jitter)
            log.warning("%s: not ready, again in %.1f s: %s", what, pause, problem)
            await asyncio.sleep(pause)

    repeating, stopping = asyncio.create_task(repeat(), name=what), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((repeating, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not repeating.done():
            return False
        repeating.result()
        return True
    finally:
        for one in (repeating, stopping):
            one.cancel()
        await asyncio.gather(repeating, stopping, return_exceptions=True)


def _measured(
    telemetry: Telemetry, kind: str, work: Callable[[Key], Awaitable[float | None]]
) -> Callable[[Key], Awaitable[float | None]]:
    async def measured(key: Key) -> float | None:
        started = time.perf_counter()
        outcome = "error"
        try:
            requeue_after = await work(key)
            outcome = "success"
            return requeue_after
        finally:
            telemetry.passes.labels(kind, outcome).inc()
            telemetry.pass_seconds.labels(kind).observe(time.perf_counter() - started)

    return measured

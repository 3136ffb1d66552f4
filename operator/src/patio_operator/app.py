"""Wiring: settings, the connection to the API server, the queues, kopf, the webhook server, the health server.

The only module that knows all the others. Everything runs in one event loop under one TaskGroup: what ends
unexpectedly ends the process, and the kubelet starts it again with nothing lost, since nothing is kept here.
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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import kopf

from patio_operator import __version__
from patio_operator.cluster import events
from patio_operator.cluster.api import ApiError, Cluster
from patio_operator.cluster.kinds import (
    CUSTOM_RESOURCE_DEFINITION,
    LEASE,
    MUTATING_WEBHOOK_CONFIGURATION,
    VALIDATING_WEBHOOK_CONFIGURATION,
)
from patio_operator.cluster.known import Known, KnownPod
from patio_operator.handlers import Wakers, login, profiles, rolebasedgroups
from patio_operator.injection import Access
from patio_operator.leadership.elector import Elector
from patio_operator.reconcile.adapters import AdapterReconciler
from patio_operator.reconcile.credentials import SecretReader
from patio_operator.reconcile.groups import GroupReconciler
from patio_operator.reconcile.marks import Marks
from patio_operator.reconcile.profiles import ProfileReconciler
from patio_operator.reconcile.queue import Key, WorkQueue
from patio_operator.reconcile.services import Services
from patio_operator.reconcile.signing_key import SigningKeyKeeper
from patio_operator.reconcile.statuses import Statuses
from patio_operator.settings import Settings, SettingsError
from patio_operator.sidecars.orders import AT_ONCE, Orders
from patio_operator.sidecars.signed import SignedCalls
from patio_operator.sidecars.watch import SidecarWatch
from patio_operator.telemetry import Telemetry, health_application, set_up_logging
from patio_operator.upstream.detector import Detector
from patio_operator.webhooks import crd_bundle, server
from patio_operator.webhooks import loraadapters as adapter_reviews
from patio_operator.webhooks import profiles as profile_reviews
from patio_operator.webhooks.certificates import Periods
from patio_operator.webhooks.keeper import FileKeeper, Keeper, SecretKeeper, keep_once
from patio_operator.webhooks.lookups import Lookups

log = logging.getLogger(__name__)

KEY_CHECK_SECONDS = 60.0
"""How often the key is looked at that calls to sidecars are signed with."""
ORDER_CONNECTIONS = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0)
"""For the orders to sidecars, which are rare: kept connections would be looked through for every other pod's order."""


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
    asyncio.run(run(settings))


async def run(settings: Settings) -> None:
    """Run everything until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    _on_signals(stop)
    cluster = await Cluster.connect()
    telemetry = Telemetry()
    try:
        # Sidecars are addressed by pod IP: a proxy of the environment is never on the way to them.
        async with httpx.AsyncClient(limits=ORDER_CONNECTIONS, trust_env=False) as http:
            await _run(settings, cluster, http, telemetry, stop)
    finally:
        await cluster.close()
    log.info("stopped")


async def _run(
    settings: Settings, cluster: Cluster, http: httpx.AsyncClient, telemetry: Telemetry, stop: asyncio.Event
) -> None:
    serving = asyncio.Event()
    # Whether a replica leads is nobody's business but its own: every one that serves is ready.
    health = await server.serve(
        health_application(telemetry, lambda: serving.is_set() and not stop.is_set()), settings.health_port
    )
    mode_changed = asyncio.Event()

    def on_mode() -> None:
        mode_changed.set()
        telemetry.observing.set(detector.observing)
        groups.wake_all()

    signing = SigningKeyKeeper(cluster, settings)
    known = Known(cluster)

    def wake_adapters(namespace: str) -> None:
        adapters.wake((namespace,))

    def on_secret(namespace: str, name: str) -> None:
        refs = (one.adapter.spec.source.secret_ref for one in known.adapters.all(namespace))
        if any(ref is not None and ref.name == name for ref in refs):
            adapters.wake((namespace,))

    def auth(pod_uid: str) -> httpx.Auth:
        return SignedCalls(pod_uid, lambda: signing.key, signing.look_up)

    rng = random.Random()  # noqa: S311 - jitter only
    credentials = SecretReader(cluster, settings.secret_namespaces, on_secret)
    orders = Orders(http, auth, credentials, _now, rng, wake_adapters)
    adapter_reconciler = AdapterReconciler(
        cluster,
        known,
        credentials,
        SidecarWatch(wake_adapters, _now, rng, ask_loopback=settings.ask_loopback),
        orders,
        Marks(cluster, known.pods, _now, rng, wake_adapters, orders.under_way),
        Services(cluster, known.services, time.monotonic),
        Statuses(cluster, known.adapters, time.monotonic),
        _now,
        time.monotonic,
    )
    group_reconciler = GroupReconciler(cluster, lambda: detector.observing)
    adapters = WorkQueue("adapters", _measured(telemetry, "LoraAdapter", adapter_reconciler.reconcile))
    groups = WorkQueue("group", _measured(telemetry, "RoleBasedGroup", group_reconciler.reconcile))
    profile_reconciler = ProfileReconciler(cluster, settings.namespace, time.monotonic, lambda: detector.observing)
    profile_queue = WorkQueue(
        "profile", _measured(telemetry, "ClusterEngineRuntimeProfile", profile_reconciler.reconcile)
    )
    detector = Detector(cluster, settings.groups)
    detector.start(on_mode)
    wakers = Wakers(
        group=lambda namespace, name: groups.wake((namespace, name)),
        all_groups=groups.wake_all,
        profile=lambda name: profile_queue.wake((name,)),
    )

    def on_pod(namespace: str, was: KnownPod | None, there: KnownPod | None) -> None:
        adapters.wake((namespace,))
        if was and there and (was.profiles, was.pod.leaving) == (there.profiles, there.pod.leaving):
            return
        for profile in {name for one in (was, there) if one is not None for name in one.profiles}:
            profile_queue.wake((profile,))

    def on_group_pod(namespace: str, was: tuple[str, str] | None, there: tuple[str, str] | None) -> None:
        for group in {one[0] for one in (was, there) if one is not None}:
            groups.wake((namespace, group))

    known.pods.listen(on_pod)
    known.group_pods.listen(on_group_pod)
    known.adapters.listen(lambda namespace, *_: wake_adapters(namespace))
    known.services.listen(lambda namespace, *_: wake_adapters(namespace))

    async def act() -> None:
        """Do what one replica only may do, until cancelled."""
        try:
            await adapter_reconciler.begin()
            async with asyncio.TaskGroup() as acting:
                acting.create_task(adapters.run(), name="adapters")
                acting.create_task(groups.run(), name="groups")
                acting.create_task(profile_queue.run(), name="profiles")
                acting.create_task(_tell_mode(cluster, settings, detector, mode_changed), name="mode")
        finally:
            await adapter_reconciler.end()

    keeper = _keeper(cluster, settings)

    async def keep_certificate() -> str | None:
        return await keep_once(keeper)

    async def keep_signing_key() -> str | None:
        try:
            await signing.keep()
        except ApiError as error:
            return error.message
        return None

    def new_access() -> Access:
        return Access((signing.key.public,), secrets.token_urlsafe(24))

    await _until_done("webhook certificate", keep_certificate)
    await _until_done("signing key", keep_signing_key)
    await _until_done("upstream's controller", detector.looked)
    elector = Elector(cluster, settings.namespace, settings.lease, settings.pod_name, telemetry.leader.set)
    lookups = Lookups(cluster, known)
    application = server.application(
        lookups, telemetry, new_access, observing=lambda: detector.observing, stopping=stop.is_set
    )
    profile_reviews.add_route(application, cluster, settings.namespace)
    adapter_reviews.add_route(application, cluster, known)
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
                *(
                    tasks.create_task(one, name="watch")
                    for one in (*known.watches(), *credentials.watches(), *lookups.watches())
                ),
            ]
            watching_ends = asyncio.Event()
            tasks.create_task(_watch(settings.pod_name, wakers, stop, watching_ends), name="kopf")
            await stop.wait()
            # The successor first; admissions go on until the Service leads nobody here any more.
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


def _keeper(cluster: Cluster, settings: Settings) -> Keeper:
    if settings.certificate_folder:

        async def tell_crd(ca: bytes) -> None:
            await crd_bundle.keep(cluster, settings.service_name, settings.namespace, ca)

        return FileKeeper(Path(settings.certificate_folder), tell_crd)
    periods = Periods(timedelta(hours=settings.certificate_hours), timedelta(hours=settings.certificate_renew_hours))
    trusting = [
        (MUTATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (VALIDATING_WEBHOOK_CONFIGURATION, settings.webhook_configuration),
        (CUSTOM_RESOURCE_DEFINITION, crd_bundle.NAME),
    ]
    return SecretKeeper(cluster, settings.namespace, settings.webhook_secret, settings.service_name, periods, trusting)


async def _tell_mode(cluster: Cluster, settings: Settings, detector: Detector, changed: asyncio.Event) -> None:
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


async def _watch(pod_name: str, wakers: Wakers, stop: asyncio.Event, ends: asyncio.Event) -> None:
    registry = kopf.OperatorRegistry()
    for module in (login, profiles, rolebasedgroups):
        module.register(registry)
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # A quiet watch is closed by the API server after a while; the client must notice a dead connection by itself.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.networking.connect_timeout = 10
    # Without one kopf looks the user's name up, and a container's user has none. Its type is private to kopf.
    identity: Any = pod_name

    @kopf.on.cleanup(registry=registry)
    async def stopping(**_: Any) -> None:
        # Also where kopf ends by itself: nothing is worth doing without it.
        stop.set()

    async with asyncio.TaskGroup() as tasks:
        started = asyncio.Event()
        signals = tasks.create_task(_take_signals_back(started, stop))
        # No peering: a standby watches as the leader does, so that it knows what to work on when it leads.
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=True,
            memo=wakers,
            identity=identity,
            stop_flag=ends,
            ready_flag=started,
        )
        signals.cancel()


async def _take_signals_back(started: asyncio.Event, stop: asyncio.Event) -> None:
    """Have signals end this process in our order: kopf, which takes them when it starts, would end itself first.

    Then it waits five seconds for every other task of the loop and cancels it, admissions included.
    """
    await started.wait()
    _on_signals(stop)


def _on_signals(stop: asyncio.Event) -> None:
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)


async def _keep(what: str, keep: Callable[[], Awaitable[str | None]], every: float) -> None:
    while True:
        await asyncio.sleep(every)
        problem = await keep()
        if problem is not None:
            log.warning("%s not checked: %s", what, problem)


async def _until_done(what: str, work: Callable[[], Awaitable[str | None]]) -> None:
    """Repeat until there is no problem: at its start an operator has nothing else to do."""
    pause = 0.5
    while (problem := await work()) is not None:
        log.warning("%s: not ready, again in %.1f s: %s", what, pause, problem)
        await asyncio.sleep(pause)
        pause = min(pause * 2, 15.0)


def _now() -> datetime:
    return datetime.now(UTC)


def _measured(
    telemetry: Telemetry, kind: str, work: Callable[[Key], Awaitable[float | None]]
) -> Callable[[Key], Awaitable[float | None]]:
    async def measured(key: Key) -> float | None:
        started = time.perf_counter()
        outcome = "error"
        try:
            again_in = await work(key)
            outcome = "success"
            return again_in
        finally:
            telemetry.passes.labels(kind, outcome).inc()
            telemetry.pass_seconds.labels(kind).observe(time.perf_counter() - started)

    return measured

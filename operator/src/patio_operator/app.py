"""Wiring: settings, the connection to the API server, the queues, kopf, the webhook server, the health server.

The only module that knows all the others. Everything runs in one event loop under one TaskGroup: what ends
unexpectedly ends the process, and the kubelet starts it again with nothing lost, since nothing is kept here.
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
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import kopf

from patio_operator import __version__
from patio_operator.cluster.api import ApiError, Cluster
from patio_operator.handlers import Wakers, login, loraadapters, pods, profiles, rolebasedgroups
from patio_operator.injection import Access
from patio_operator.reconcile.adapters import AdapterReconciler
from patio_operator.reconcile.groups import GroupReconciler
from patio_operator.reconcile.profiles import ProfileReconciler
from patio_operator.reconcile.queue import Key, WorkQueue
from patio_operator.reconcile.signing_key import SigningKeyKeeper
from patio_operator.settings import Settings, SettingsError
from patio_operator.sidecars.orders import Orders
from patio_operator.sidecars.signed import SignedCalls
from patio_operator.sidecars.watch import SidecarWatch
from patio_operator.telemetry import Telemetry, health_application, set_up_logging
from patio_operator.webhooks import profiles as profile_reviews
from patio_operator.webhooks import server
from patio_operator.webhooks.certificates import CHECK_SECONDS, CertificateKeeper
from patio_operator.webhooks.lookups import Lookups

log = logging.getLogger(__name__)

SIDECAR_CONNECTIONS = httpx.Limits(max_connections=None, max_keepalive_connections=None)
"""One long-poll for each pod: a limit would leave the pods beyond it unread."""


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
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    cluster = await Cluster.connect()
    telemetry = Telemetry()
    try:
        # Sidecars are addressed by pod IP: a proxy of the environment is never on the way to them.
        async with httpx.AsyncClient(limits=SIDECAR_CONNECTIONS, trust_env=False) as http:
            await _run(settings, cluster, http, telemetry, stop)
    finally:
        await cluster.close()
    log.info("stopped")


async def _run(
    settings: Settings, cluster: Cluster, http: httpx.AsyncClient, telemetry: Telemetry, stop: asyncio.Event
) -> None:
    watching = asyncio.Event()
    health = await server.serve(health_application(telemetry, watching.is_set), settings.health_port)
    keeper = CertificateKeeper(cluster, settings)
    signing = SigningKeyKeeper(cluster, settings)
    for one in (keeper.keep, signing.keep):
        await _until_done(one)

    def new_access() -> Access:
        return Access((signing.key.public,), secrets.token_urlsafe(24))

    lookups = Lookups(cluster)
    application = server.application(lookups, telemetry, new_access)
    profile_reviews.add_route(application, cluster, settings.namespace)
    webhook = await server.serve(application, settings.webhook_port, keeper.context)

    watch = SidecarWatch(http, on_change=lambda namespace: adapters.wake((namespace,)))
    orders = Orders(
        http,
        random.Random(),  # noqa: S311 - jitter only
        lambda pod_uid: SignedCalls(pod_uid, lambda: signing.key, signing.look_up),
    )
    adapter_reconciler = AdapterReconciler(cluster, watch, orders)
    adapters = WorkQueue("adapters", _measured(telemetry, "LoraAdapter", adapter_reconciler.reconcile))
    groups = WorkQueue("group", _measured(telemetry, "RoleBasedGroup", GroupReconciler(cluster).reconcile))
    profile_reconciler = ProfileReconciler(cluster, settings.namespace, time.monotonic)
    profile_queue = WorkQueue(
        "profile", _measured(telemetry, "ClusterEngineRuntimeProfile", profile_reconciler.reconcile)
    )
    wakers = Wakers(
        adapters=lambda namespace: adapters.wake((namespace,)),
        group=lambda namespace, name: groups.wake((namespace, name)),
        all_groups=groups.wake_all,
        profile=lambda name: profile_queue.wake((name,)),
    )
    log.info("started: version %s, namespace %s", __version__, settings.namespace)
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                *(tasks.create_task(one, name="lookups") for one in lookups.watches()),
                tasks.create_task(adapters.run(), name="adapters"),
                tasks.create_task(groups.run(), name="groups"),
                tasks.create_task(profile_queue.run(), name="profiles"),
                tasks.create_task(_keep_secrets((keeper.keep, signing.keep)), name="secrets"),
                tasks.create_task(_watch(settings.pod_name, wakers, stop, watching), name="kopf"),
            ]
            await stop.wait()
            for task in running[:-1]:
                task.cancel()
            # kopf, which ends by itself, waits five seconds for any task that is left.
            await watch.close()
            await webhook.cleanup()
            await health.cleanup()
    finally:
        await watch.close()
        await webhook.cleanup()
        await health.cleanup()


async def _watch(pod_name: str, wakers: Wakers, stop: asyncio.Event, watching: asyncio.Event) -> None:
    registry = kopf.OperatorRegistry()
    for module in (login, loraadapters, pods, profiles, rolebasedgroups):
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
    def stopping(**_: Any) -> None:
        # kopf takes the signals over, and before it ends it waits for every other task of the loop: end them now.
        stop.set()

    await kopf.operator(
        registry=registry,
        settings=settings,
        standalone=True,
        clusterwide=True,
        memo=wakers,
        identity=identity,
        stop_flag=stop,
        ready_flag=watching,
    )


async def _keep_secrets(keepers: Sequence[Callable[[], Awaitable[None]]]) -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        for keep in keepers:
            try:
                await keep()
            except ApiError as error:
                log.warning("Secret not checked: %s", error.message)


async def _until_done(work: Callable[[], Awaitable[None]]) -> None:
    """Repeat until the API server answers: at its start an operator has nothing else to do."""
    pause = 0.5
    while True:
        try:
            return await work()
        except ApiError as error:
            log.warning("Secret not ready, again in %.1f s: %s", pause, error.message)
            await asyncio.sleep(pause)
            pause = min(pause * 2, 15.0)


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

"""The sidecar's process: `python -m patio.app`.

Reads the settings, puts the parts together, serves until SIGTERM. The only module that knows all others; it decides
nothing. If the reconciler or the server ends in an error the process does too, and kubelet starts it again: what is
wanted is in the store.
"""

from __future__ import annotations

from patio import footprint

# isort: split
import asyncio
import logging
import os
import random
import secrets
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, disable_created_metrics

from patio import __version__
from patio.access.authorizer import Authorizer
from patio.access.connection_limits import LongPolls
from patio.access.metrics import AccessMetrics, Contact, warn_while_off
from patio.adapters.metrics import AdapterMetrics
from patio.adapters.reconciler import Reconciler
from patio.adapters.store import Store
from patio.credentials.sealing import Sealing
from patio.credentials.token import read_token
from patio.downloads.downloads import Downloads
from patio.downloads.metrics import DownloadMetrics
from patio.drain.drain import Drain
from patio.drain.metrics import DrainMetrics
from patio.drain.request_counter import CountSources, RequestCounter
from patio.engine.address import read_address
from patio.engine.base import Engine, EngineView
from patio.engine.clients import EngineClients, open_clients
from patio.engine.sglang import Sglang
from patio.engine.vllm import Vllm
from patio.file_limit import raise_file_limit
from patio.logs import configure
from patio.metrics.engine_life import EngineLifeMetrics
from patio.metrics.mappings import renamed_from
from patio.metrics.readiness import ReadinessMetrics
from patio.metrics.scrape import Scraper
from patio.metrics.self_metrics import SelfMetrics
from patio.readiness import Blocker, BlockerKind
from patio.routes import Parts, create_app
from patio.server import LEAVE_SECONDS, Server, configured, limit_loop_errors, listen
from patio.settings import Settings, read_settings
from patio.topology.factory import Topology, build_topology, open_client
from patio.variables import SettingsError
from patio_protocol.adapters import Readiness, ServerStatus
from patio_protocol.engines import EngineKind

log = logging.getLogger(__name__)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the sidecar; return the exit code."""
    files = raise_file_limit()
    try:
        settings = read_settings(argv, environ)
        store = _store(settings)
        listening = listen(settings.host, settings.port)
    except SettingsError as error:
        print(f"patio: {error}", file=sys.stderr)
        return 2
    configure(settings.log_level, settings.log_json)
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client 0.26 has no type there
    try:
        asyncio.run(_serve(settings, store, listening, files))
    except Exception:  # the outermost: say why, and leave for kubelet to start us again
        log.exception("sidecar failed")
        return 1
    return 0


@dataclass(frozen=True, slots=True)
class Sidecar:
    """The parts, put together; nothing runs yet."""

    app: FastAPI
    reconciler: Reconciler
    downloads: Downloads
    scraper: Scraper
    topology: Topology
    drain: Drain
    engine_clients: EngineClients

    async def run(self) -> None:
        """Run what has to run beside the server, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            if self.topology.server is None:
                tasks.create_task(self.reconciler.run(), name="reconciler")
                tasks.create_task(self.downloads.run(), name="downloads")
            tasks.create_task(self.topology.run(), name="topology")

    async def close(self) -> None:
        """Cancel what is in progress."""
        await self.drain.close()
        await self.scraper.close()
        await self.engine_clients.close()


def assemble(settings: Settings, store: Store, http: httpx.AsyncClient, stopping: asyncio.Event) -> Sidecar:
    """Put the parts together. `http` is for routers; `stopping` ends the waits of long requests."""
    address = read_address(settings.engine_endpoint)
    clients = open_clients(address, settings.engine_tls)
    registry = CollectorRegistry()
    downloads = Downloads(
        settings.downloads,
        DownloadMetrics(registry, lambda: downloads.reports(), lambda: downloads.disk_usage),
        random.Random(),  # noqa: S311 - spreads retries, guards nothing
        os.environ,
        new_id=lambda: secrets.token_hex(6),
    )
    reconciler = Reconciler(
        _engine(settings, clients),
        store,
        settings.required_adapters,
        downloads,
        boot=secrets.token_hex(4),
        rng=random.Random(),  # noqa: S311 - spreads retries, guards nothing
        count=lambda attempt: adapter_metrics.count_attempt(attempt),
    )
    topology = build_topology(
        settings.topology,
        http,
        registry,
        lambda: reconciler.engine_view.ready,
        random.Random(),  # noqa: S311 - spreads readings, guards nothing
    )
    drain = Drain(
        settings.drain,
        RequestCounter(_sources(settings), clients.drains),
        topology,
        lambda outcome, seconds: drain_metrics.count_answer(outcome, seconds),
    )
    server = topology.server
    adapter_metrics = AdapterMetrics(registry, lambda: reconciler.published.list.adapters)
    self_metrics = SelfMetrics(registry, __version__, settings.engine.value, settings.engine_version)
    scraper = Scraper(
        address.base_url + settings.metrics_path if settings.scrape_engine and server is None else None,
        clients.polls,
        settings.engine,
        settings.metrics_prefixes,
        self_metrics,
        lambda: reconciler.engine_view if server is None else EngineView(ready=server.router_reached),
    )

    def status() -> ServerStatus:
        return ServerStatus(
            version=__version__,
            pod=settings.pod,
            engine=settings.engine.value,
            engine_endpoint=settings.engine_endpoint,
            engine_ready=reconciler.engine_view.ready,
            access_control_enforced=settings.access.enforced,
        )

    def blockers() -> tuple[Blocker, ...]:
        return drain.blockers + reconciler.blockers() if server is None else server.blockers

    def readiness() -> Readiness:
        found = blockers()
        return Readiness(ready=not found, waiting_for=tuple(blocker.message for blocker in found))

    authorizer = Authorizer(settings.access, time.time)
    polls = LongPolls()
    access_metrics = AccessMetrics(
        registry, settings.access.enforced, lambda: Contact(authorizer.last_accepted, polls.last_from_outside)
    )
    drain_metrics = DrainMetrics(registry, lambda: drain.draining)
    beside_router = (BlockerKind.ROUTER,)
    beside_engine = (BlockerKind.ENGINE, BlockerKind.ADAPTER, BlockerKind.DRAIN)
    ReadinessMetrics(registry, beside_engine if server is None else beside_router, blockers)
    if server is None:
        EngineLifeMetrics(registry, settings.engine.value, lambda: reconciler.engine_history)
    parts = Parts(
        reconciler,
        downloads,
        scraper,
        status,
        readiness,
        topology.report,
        server,
        None if server is not None else drain,
        stopping,
        authorizer,
        access_metrics.count_rejection,
        Sealing(settings.access.pod_uid, lambda: read_token(settings.access.token_file)),
        polls,
    )
    app = create_app(parts, __version__, settings.docs)
    return Sidecar(app, reconciler, downloads, scraper, topology, drain, clients)


async def _serve(settings: Settings, store: Store, listening: socket.socket, files: int) -> None:
    limit_loop_errors(asyncio.get_running_loop())
    leaving, stopping = asyncio.Event(), asyncio.Event()
    async with open_client(settings.topology.endpoints) as http:
        sidecar = assemble(settings, store, http, stopping)
        config = configured(sidecar.app, files)
        server = Server(config, leaving, stopping, sidecar.drain)
        server.take_signals()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(sidecar.run(), name="sidecar")
            leaving_routers = tasks.create_task(_leave_at_the_end(leaving, sidecar.topology), name="leave routers")
            host, port = listening.getsockname()[:2]
            log.info(
                "serving version=%s address=%s port=%d engine=%s endpoint=%s required=%d files=%d",
                __version__,
                host,
                port,
                settings.engine,
                settings.engine_endpoint,
                len(settings.required_adapters),
                files,
            )
            reminding = None if settings.access.enforced else tasks.create_task(warn_while_off(), name="reminder")
            config.load()
            footprint.settle()
            await server.serve(sockets=[listening])
            await leaving_routers
            running.cancel()
            if reminding is not None:
                reminding.cancel()
        await sidecar.close()
    log.info("stopped")


async def _leave_at_the_end(leaving: asyncio.Event, topology: Topology) -> None:
    """Leave the routers while the last requests are answered; a router that is gone holds nothing up."""
    await leaving.wait()
    if not await topology.wait_until_left(LEAVE_SECONDS):
        log.warning("exiting while a router still lists this worker seconds=%d", LEAVE_SECONDS)


def _sources(settings: Settings) -> CountSources:
    return CountSources(
        endpoint=settings.engine_endpoint,
        metrics_path=settings.metrics_path,
        running=renamed_from(settings.engine, "num_requests_running"),
        waiting=renamed_from(settings.engine, "num_requests_waiting"),
        loads=settings.engine is EngineKind.SGLANG,
        key=settings.api_key,
    )


def _engine(settings: Settings, clients: EngineClients) -> Engine:
    endpoint, key = settings.engine_endpoint, settings.api_key
    if settings.engine is EngineKind.VLLM:
        return Vllm(endpoint, clients.polls, key, clients.orders)
    return Sglang(endpoint, clients.polls, key, settings.admin_api_key, settings.model, clients.orders)


def _store(settings: Settings) -> Store:
    """Return the store, or one that keeps nothing if the sidecar has no folder to write to."""
    folder = settings.state_file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} is not writable")
    except OSError as error:
        if settings.state_file_chosen:
            raise SettingsError(f"PATIO_STATE_FILE: the sidecar cannot write to {folder}: {error}") from None
        print(f"patio: {folder} is not writable: a restart of the sidecar loses its orders", file=sys.stderr)
        return Store(None)
    return Store(settings.state_file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))

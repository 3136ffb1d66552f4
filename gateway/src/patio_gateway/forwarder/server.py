"""Runs the forwarder: its socket, its processes, and its end.

At SIGTERM the socket closes, requests and streams go on until they end or the time for it is over, and then the program
ends with 0. With several processes uvicorn's supervisor starts them, and replaces those that die.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import uvicorn
from starlette.types import ASGIApp
from uvicorn.supervisors import Multiprocess

from patio_gateway.forwarder.app import build, worker
from patio_gateway.forwarder.config import Config
from patio_gateway.forwarder.permits import SharedPermits
from patio_gateway.forwarder.routes import engine_of

log = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_SECONDS = 75
"""A client's connection without a request is closed after it."""
MOST_CONNECTIONS = 11_000
"""In a process; uvicorn answers 503 above it."""
PROBE_SECONDS = 60
"""A process that does not answer the supervisor for so long is replaced."""


class NoSocketError(Exception):
    """The address cannot be listened on."""


@dataclass(frozen=True)
class Serving:
    """Where and how the forwarder serves."""

    host: str | None = None
    """IP address; None: all addresses of the machine."""
    port: int = 5000
    processes: int = 1
    drain_seconds: int = 600


def processes(wanted: int) -> int:
    """Return how many processes are started: not more than there are CPUs, since one serves many requests."""
    return min(wanted, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def listening(host: str | None, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        NoSocketError: the address is in use, or not one of the machine.

    """
    is_any = host in (None, "::")
    is_six = ":" in (host or "") or (is_any and socket.has_dualstack_ipv6())
    with contextlib.ExitStack() as stack:
        try:
            # asyncio switches Nagle's algorithm off only where the protocol is named; an answer takes 40 ms with it.
            family = socket.AF_INET6 if is_six else socket.AF_INET
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if is_six:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_any)
            listener.bind((host or "", port))
            listener.listen(BACKLOG)
        except OSError as error:
            raise NoSocketError(f"Cannot listen on {host or 'any address'}, port {port}: {error.strerror}.") from None
        stack.pop_all()
        return listener


def serve(config: Config, serving: Serving) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        NoSocketError: the address cannot be listened on.

    """
    listener = listening(serving.host, serving.port)
    count = processes(serving.processes)
    log.info(
        "forwarder_started port=%d processes=%d max_concurrency=%d engines=%s",
        *(serving.port, count, config.max_concurrency),
        json.dumps(",".join(dict.fromkeys(engine_of(each).address for each in config.forwardings))),
    )
    if count == 1:
        server = uvicorn.Server(_settings(partial(build, config), serving, 1))
        # uvicorn gives a signal back when it has ended; this way the signal does nothing then.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.handle_exit)
        server.run(sockets=[listener])
    else:
        permits = SharedPermits(config.max_concurrency)
        Multiprocess(_settings(partial(worker, config, permits), serving, count), sockets=[listener]).run()
        permits.close()
    log.info("forwarder_stopped")


def _settings(application: Callable[[], ASGIApp], serving: Serving, count: int) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        factory=True,
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        workers=count,
        backlog=BACKLOG,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_SECONDS,
        timeout_graceful_shutdown=serving.drain_seconds,
        timeout_worker_healthcheck=PROBE_SECONDS,
    )

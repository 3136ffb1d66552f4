"""The HTTPS server that the API server calls at admission and for conversion: which route is answered by what, within
which limits.

`reviewing` reads and encodes, `pod_mutation` and `conversion` decide. What one kind of review takes is bounded apart
from the others: a flood of conversions holds up no pod.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from aiohttp import web

from patio_api.crd import CONVERSION_PATH
from patio_kube.client import Object
from patio_operator.injection import CallerKeys
from patio_operator.telemetry.metrics import Metrics
from patio_operator.webhooks import conversion, pod_mutation, reviewing
from patio_operator.webhooks.connections import Connection, Connections
from patio_operator.webhooks.pod_mutation_reads import PodMutationReads
from patio_operator.webhooks.reviewing import Decision, Limits, MiB, Outcome, Reply

PODS_PATH = "/mutate/pods"
SHUTDOWN_SECONDS = 3.0
"""How long the end waits for answers in progress."""
FIRST_ANSWER_SECONDS = 3.0
"""How long the end waits for the first request of connections that were accepted before."""
LOOK_SECONDS = 0.02
IDLE_SECONDS = 100.0
"""After which a connection without a request is closed. The API server closes its own after 90."""
HANDSHAKE_SECONDS = 5.0
"""In which a connection has to have TLS."""
LEAVE_SECONDS = 1.0
"""For which the end of TLS is waited for."""
BACKLOG = 256
"""Connections that the kernel keeps for us."""
CONNECTIONS: web.AppKey[Connections] = web.AppKey("connections", Connections)
PODS = Limits(longest=4 * MiB, bytes_at_once=16 * MiB)
"""The API server takes requests of 3 MiB; an ordinary pod's review has 10 to 50 kB."""
CONVERSIONS = Limits(longest=32 * MiB, bytes_at_once=48 * MiB, at_once=64)
"""An object is at most 1.5 MiB in etcd. A review may hold several groups to convert."""


def application(
    lookups: PodMutationReads,
    metrics: Metrics,
    new_access: Callable[[], CallerKeys],
    *,
    observing: Callable[[], bool],
    stopping: Callable[[], bool],
) -> web.Application:
    """Return the application with the webhook's routes.

    Args:
        lookups: where an admission reads what it needs.
        metrics: count admissions.
        new_access: makes what each pod gets one of.
        observing: whether groups are upstream's controller's at the moment.
        stopping: whether this replica is about to end: then each answer ends its connection, so that the API server
            takes the next question to another replica.

    """

    async def answer(body: Object) -> Decision:
        return await pod_mutation.answer(lookups, body, new_access, observing=observing())

    count = reviewing.counting(metrics, "pods")
    pods = reviewing.handler("an AdmissionReview of a pod", reviewing.deciding(answer), PODS, count, stopping=stopping)
    counted = reviewing.counting(metrics, "conversion")
    app = web.Application(client_max_size=CONVERSIONS.longest)
    app[reviewing.METRICS] = metrics
    app.router.add_post(PODS_PATH, pods)
    app.router.add_post(CONVERSION_PATH, converter(counted))
    return app


def converter(count: reviewing.Count) -> reviewing.Handler:
    """Return what answers ConversionReviews of RoleBasedGroups."""

    async def answer(data: bytes) -> Reply:
        converted = await conversion.answer(data.decode())
        came_to = Outcome("allowed", "converted") if converted.succeeded else Outcome("rejected", "not_converted")
        return Reply(converted.text, came_to)

    return reviewing.handler("a ConversionReview of RoleBasedGroups", answer, CONVERSIONS, count)


async def convert_groups(request: web.Request) -> web.Response:
    """Answer a ConversionReview of RoleBasedGroups, uncounted."""
    return await converter(lambda *_: None)(request)


class _Site(web.BaseSite):
    """Listens on all addresses; each connection is one of `Connections`."""

    def __init__(self, runner: web.AppRunner, port: int, context: ssl.SSLContext | None) -> None:
        super().__init__(runner, ssl_context=context)
        self._runner_of_app = runner
        self._port = port
        self._context = context

    @property
    def name(self) -> str:
        """The address, for people."""
        return f"port {self._port}"

    async def start(self) -> None:
        """Listen."""
        await super().start()
        connect = self._runner_of_app.server
        assert connect is not None
        connections = self._runner_of_app.app[CONNECTIONS]
        tls = self._context is not None
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(connect(), connections),
            None,
            self._port,
            ssl=self._context,
            backlog=BACKLOG,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None,
            ssl_shutdown_timeout=LEAVE_SECONDS if tls else None,
        )


async def serve(app: web.Application, port: int, context: ssl.SSLContext | None = None) -> web.AppRunner:
    """Listen on all addresses; clean the runner up to stop."""
    app[CONNECTIONS] = connections = Connections()
    connections.watch(app)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_SECONDS,
        auto_decompress=False,
        keepalive_timeout=IDLE_SECONDS,
    )
    await runner.setup()
    await _Site(runner, port, context).start()
    return runner


async def end(runner: web.AppRunner) -> None:
    """Accept no more connections, answer those that were accepted, and stop.

    The API server does not ask again what it has asked on a connection that is closed before the answer.
    """
    for site in list(runner.sites):
        await site.stop()
    connections = runner.app[CONNECTIONS]
    deadline = asyncio.get_running_loop().time() + FIRST_ANSWER_SECONDS
    while connections.expecting and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - many at a time
        await asyncio.sleep(LOOK_SECONDS)
    await runner.cleanup()

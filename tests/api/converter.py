"""The conversion webhook for an API server without nodes: the operator's own server, reached through localhost.

In a cluster the API server finds the operator's pods behind the Service `patio-webhook`. Here nothing routes to a
Service, so that Service becomes a name for localhost, and the CRD names the port.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from e2e_cluster.control_plane import ControlPlane
from inference_server.ports import free_port
from patio_api.crd import CONVERSION_PATH
from patio_operator.certificates import crd_bundle
from patio_operator.certificates.authority import Bundle, Periods, encode, first
from patio_operator.webhooks import server

NAMESPACE, SERVICE = "patio-system", "patio-webhook"
NAMES = (f"{SERVICE}.{NAMESPACE}.svc", f"{SERVICE}.{NAMESPACE}.svc.cluster.local")


@contextmanager
def converting(plane: ControlPlane) -> Iterator[None]:
    """Convert for an API server that has the chart. Operators that start there use the same certificate."""
    bundle = first(NAMES, datetime.now(UTC), Periods())
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "patio-webhook-tls", "namespace": NAMESPACE},
        "data": encode(bundle),
    }
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(secret))
    localhost = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": SERVICE, "namespace": NAMESPACE},
        "spec": {"type": "ExternalName", "externalName": "localhost"},
    }
    plane.kubectl("replace", "--force", "-f", "-", stdin=json.dumps(localhost))
    with _serving(bundle, plane.folder) as port:
        client = {"service": {"port": port}, "caBundle": encode(bundle)["ca.crt"]}
        patch = {"spec": {"conversion": {"webhook": {"clientConfig": client}}}}
        plane.kubectl("patch", "crd", crd_bundle.NAME, "--type=merge", "-p", json.dumps(patch))
        yield


@contextmanager
def _serving(bundle: Bundle, folder: Path) -> Iterator[int]:
    """Run the operator's webhook server in a thread; yield its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    pair = folder / "webhook.pem"
    pair.write_bytes(bundle.key + bundle.certificate)
    context.load_cert_chain(pair)
    port, loop, listening = free_port(), asyncio.new_event_loop(), threading.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_post(CONVERSION_PATH, server.convert_groups)
        runner = await server.serve(app, port, context)
        listening.set()
        try:
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    task = loop.create_task(serve())
    thread = threading.Thread(target=_run, args=(loop, task), name="converter")
    thread.start()
    try:
        assert listening.wait(10), "the webhook server does not listen"
        yield port
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(10)


def _run(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    finally:
        loop.close()

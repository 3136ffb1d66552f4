"""The HTTPS server that the API server calls at admission and for conversion. Decodes, calls `review` or `convert`,
encodes.
"""

from __future__ import annotations

import json
import logging
import ssl
import time
from collections.abc import Callable

from aiohttp import web

from patio_operator.api.crd import CONVERSION_PATH
from patio_operator.cluster.api import ApiError
from patio_operator.injection import Access
from patio_operator.telemetry import Telemetry
from patio_operator.webhooks import convert, review
from patio_operator.webhooks.lookups import Lookups

log = logging.getLogger(__name__)

PODS_PATH = "/mutate/pods"
SHUTDOWN_SECONDS = 3.0
"""How long an answer under way is waited for at the end."""
MAX_REVIEW_BYTES = 32 * 1024 * 1024
"""An object is at most 1.5 MiB in etcd. A review may hold a pod twice, and several groups to convert."""


def application(
    lookups: Lookups,
    telemetry: Telemetry,
    new_access: Callable[[], Access],
    *,
    observing: Callable[[], bool],
    stopping: Callable[[], bool],
) -> web.Application:
    """Return the application with the webhook's routes.

    Args:
        lookups: where an admission reads what it needs.
        telemetry: counts admissions.
        new_access: makes what each pod gets one of.
        observing: whether groups are upstream's controller's at the moment.
        stopping: whether this replica is about to end: then each answer ends its connection, so that the API server
            takes the next question to another replica.

    """

    async def mutate_pods(request: web.Request) -> web.Response:
        started = time.perf_counter()
        try:
            body = json.loads(await request.read())
            answer = await review.answer(lookups, body, new_access, observing=observing())
        except ApiError as error:
            log.error("admission not answered: %s", error.message)
            telemetry.admissions.labels("error").inc()
            return web.json_response({"error": error.message}, status=500)
        except (ValueError, KeyError, TypeError) as error:
            log.error("admission not understood: %s: %s", type(error).__name__, error)
            telemetry.admissions.labels("error").inc()
            return web.json_response({"error": "not an AdmissionReview of a pod"}, status=400)
        telemetry.admissions.labels("allowed" if answer["response"]["allowed"] else "refused").inc()
        telemetry.admission_seconds.observe(time.perf_counter() - started)
        response = web.json_response(answer)
        if stopping():
            response.force_close()
        return response

    app = web.Application(client_max_size=MAX_REVIEW_BYTES)
    app.router.add_post(PODS_PATH, mutate_pods)
    app.router.add_post(CONVERSION_PATH, convert_groups)
    return app


async def convert_groups(request: web.Request) -> web.Response:
    """Answer a ConversionReview of RoleBasedGroups."""
    try:
        answer = await convert.answer((await request.read()).decode())
        return web.Response(text=answer, content_type="application/json")
    except ValueError as error:
        log.error("conversion not understood: %s: %s", type(error).__name__, error)
        return web.json_response({"error": "not a ConversionReview of RoleBasedGroups"}, status=400)


async def serve(app: web.Application, port: int, context: ssl.SSLContext | None = None) -> web.AppRunner:
    """Listen on all addresses; clean the runner up to stop."""
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, port=port, ssl_context=context).start()
    return runner

"""`/_double/...`: what tests order from the outside, on paths that no engine has.

Everything here exists as a method of `server.Double` too, for tests that run the double in process. Answers are JSON;
nothing under this prefix is logged as a request, delayed, rejected or guarded by a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from engine_double.core import Engine
from engine_double.faults import Fault

PREFIX = "/_double"


def routes(engine: Engine, *, crash: Callable[[], None], terminate: Callable[[], None]) -> list[Route]:
    """The control surface of one engine."""
    core = engine.core

    async def order(request: Request) -> Response:
        try:
            fault = fault_from(await request.json())
        except (TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        core.faults.order(fault)
        return JSONResponse(asdict(fault))

    async def list_faults(_: Request) -> Response:
        return JSONResponse([asdict(fault) for fault in core.faults.ordered])

    async def clear_faults(_: Request) -> Response:
        core.faults.clear()
        return JSONResponse([])

    async def requests(request: Request) -> Response:
        path = request.query_params.get("path")
        return JSONResponse([asdict(logged) for logged in core.faults.requests if path in (None, logged.path)])

    async def forget_requests(_: Request) -> Response:
        core.faults.requests.clear()
        return JSONResponse([])

    async def state(_: Request) -> Response:
        return JSONResponse(
            {
                "engine": core.settings.engine,
                "adapters": engine.adapters(),
                "running": core.batch.running.total(),
                "waiting": core.batch.waiting.total(),
                "paused": core.batch.paused,
                "shutting_down": core.shutting_down,
                "tokens_per_second": core.batch.tokens_per_second,
                "fixed_metrics": core.stats.fixed,
            }
        )

    async def forget(_: Request) -> Response:
        engine.forget()
        return JSONResponse({"adapters": engine.adapters()})

    async def metrics(request: Request) -> Response:
        core.stats.fixed = {str(name): float(value) for name, value in (await request.json()).items()}
        return JSONResponse(core.stats.fixed)

    async def speed(request: Request) -> Response:
        core.batch.tokens_per_second = float((await request.json())["tokens_per_second"])
        return JSONResponse({"tokens_per_second": core.batch.tokens_per_second})

    async def crash_now(_: Request) -> Response:
        crash()
        return JSONResponse({})

    async def terminate_now(_: Request) -> Response:
        terminate()
        return JSONResponse({})

    return [
        Route(f"{PREFIX}/faults", order, methods=["POST"]),
        Route(f"{PREFIX}/faults", list_faults, methods=["GET"]),
        Route(f"{PREFIX}/faults", clear_faults, methods=["DELETE"]),
        Route(f"{PREFIX}/requests", requests, methods=["GET"]),
        Route(f"{PREFIX}/requests", forget_requests, methods=["DELETE"]),
        Route(f"{PREFIX}/state", state, methods=["GET"]),
        Route(f"{PREFIX}/forget", forget, methods=["POST"]),
        Route(f"{PREFIX}/metrics", metrics, methods=["PUT"]),
        Route(f"{PREFIX}/speed", speed, methods=["PUT"]),
        Route(f"{PREFIX}/crash", crash_now, methods=["POST"]),
        Route(f"{PREFIX}/terminate", terminate_now, methods=["POST"]),
    ]


def fault_from(order: dict[str, Any]) -> Fault:
    """A fault as ordered over HTTP.

    Raises:
        ValueError: it would do nothing.
        TypeError: a field is unknown or the path is missing.
    """
    fault = Fault(**order)
    if fault.status is None and not fault.delay:
        raise ValueError("a fault needs a status, a delay or both")
    return fault

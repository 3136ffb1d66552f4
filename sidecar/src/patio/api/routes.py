"""The routes of the sidecar's API: read the request, ask whoever owns the answer, write it down.

Decisions are not made here. Adapters belong to `adapters.reconciler`, metrics to `metrics.scrape`; this module turns
their answers into status codes and every fault, also those of validation and routing, into the one error shape.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from patio.adapters.desired import Outcome
from patio.adapters.reconciler import Reconciler
from patio.api.protocol import (
    AdapterList,
    AdapterReport,
    AdapterState,
    ErrorBody,
    ErrorDetail,
    LoadRequest,
    Readiness,
    ServerStatus,
    UnloadAnswer,
    UnloadRequest,
)
from patio.engine.base import FaultReason
from patio.metrics.scrape import Scraper

log = logging.getLogger(__name__)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FAULT_STATUS: Mapping[str, int] = {
    FaultReason.ADAPTER_NOT_FOUND: 404,
    FaultReason.ADAPTER_REFUSED: 422,
    FaultReason.LORA_UNAVAILABLE: 422,
    FaultReason.EVICTED: 422,
    FaultReason.UNAUTHORIZED: 502,
}
"""Status of a load that failed, by reason. The engine's own codes do not do: vLLM answers 500 to bad adapters."""
FAULT_THAT_MAY_PASS = 503

_ROUTING_CODES = {404: "NotFound", 405: "MethodNotAllowed"}


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes answer from."""

    reconciler: Reconciler
    scraper: Scraper
    status: Callable[[], ServerStatus]
    stopping: asyncio.Event
    """Set when the process is asked to leave: long-polls and waits end then."""


class _Fault(Exception):  # noqa: N818 - it becomes an answer
    """An answer in the error shape."""

    def __init__(self, status: int, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.detail = ErrorDetail(code=code, message=message, retryable=retryable)


def create_app(parts: Parts, version: str, docs: bool) -> FastAPI:
    """Return the application."""
    app = FastAPI(
        title="Patio sidecar",
        version=version,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        openapi_url="/openapi.json" if docs else None,
        responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
    )
    _add_probes(app, parts)
    _add_adapters(app, parts)
    _add_faults(app)
    return app


def _add_probes(app: FastAPI, parts: Parts) -> None:
    @app.get("/")
    async def status() -> ServerStatus:
        """What this sidecar is and what it stands beside."""
        return parts.status()

    @app.get("/health")
    async def health() -> Response:
        """The sidecar is alive; nothing about the engine."""
        return Response(b'{"status":"ok"}', media_type="application/json")

    @app.get("/ready", responses={503: {"model": Readiness}})
    async def ready() -> Response:
        """The engine is ready and every adapter that the pod waits for is settled."""
        readiness = parts.reconciler.readiness()
        return _answer(readiness, 200 if readiness.ready else 503)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, response_class=Response)
    async def metrics(request: Request) -> Response:
        """The engine's metrics, the standard families made of them, and the sidecar's own."""
        text = await parts.scraper.text()
        headers = {"content-type": METRICS_TYPE, "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["content-encoding"] = "gzip"
            text = gzip.compress(text, compresslevel=1, mtime=0)
        return Response(text, headers=headers)


def _add_adapters(app: FastAPI, parts: Parts) -> None:
    reconciler = parts.reconciler

    @app.get("/v1/lora_adapters")
    async def adapters(
        revision: Annotated[str | None, Query(max_length=128, description="The last answer's revision.")] = None,
        wait: Annotated[float, Query(ge=0, le=300, description="Seconds to wait for another revision.")] = 0,
    ) -> AdapterList:
        """Every adapter wanted or present; with a revision, answered when there is another one."""
        if revision is not None and wait:
            await _within(wait, reconciler.changed(revision), parts.stopping)
        return reconciler.adapters()

    @app.post("/v1/load_lora_adapter", response_model=AdapterReport, responses={202: {"model": AdapterReport}})
    @app.post("/load_lora_adapter", response_model=AdapterReport, responses={202: {"model": AdapterReport}})
    async def load(request: LoadRequest) -> Response:
        """Want an adapter. 200 once the engine lists it, 202 when the wait is over first."""
        try:
            conflict = await reconciler.order_load(request)
        except OSError as error:
            raise _not_stored(error) from error
        if conflict is not None:
            raise _Fault(409, "Conflict", conflict.message)
        if request.wait:
            await _within(request.wait, _settled(reconciler, request.lora_name), parts.stopping)
        report = reconciler.report(request.lora_name)
        if report is not None and not request.wait:
            # The order was taken, and nobody waits for what becomes of it: even a fault is only the state so far.
            return _answer(report, 200 if report.state is AdapterState.LOADED else 202)
        if report is None or report.state is AdapterState.UNLOADING:
            raise _Fault(409, "Superseded", f"Adapter {request.lora_name} was ordered away before it was loaded.")
        if report.state is AdapterState.FAILED:
            status = FAULT_THAT_MAY_PASS if report.retryable else FAULT_STATUS.get(report.reason, 422)
            raise _Fault(status, report.reason, report.message, report.retryable)
        return _answer(report, 200 if report.state is AdapterState.LOADED else 202)

    @app.post("/v1/unload_lora_adapter", response_model=UnloadAnswer, responses={202: {"model": UnloadAnswer}})
    @app.post("/unload_lora_adapter", response_model=UnloadAnswer, responses={202: {"model": UnloadAnswer}})
    async def unload(request: UnloadRequest) -> Response:
        """Stop wanting an adapter. 200 once the engine has let go of it, 202 when the wait is over first."""
        name = request.lora_name
        try:
            outcome = await reconciler.order_unload(name, request.owner)
        except OSError as error:
            raise _not_stored(error) from error
        if outcome is Outcome.UNKNOWN and request.owner is None:
            raise _Fault(404, "NotFound", f"Adapter {name} is neither wanted nor loaded on this pod.")
        if outcome is Outcome.KEPT:
            words = f"Nothing to do: {request.owner} does not want {name} here, and what others want stays."
            return _answer(UnloadAnswer(lora_name=name, unloaded=True, message=words), 200)
        await _within(request.wait, _left(reconciler, name), parts.stopping)
        report = reconciler.report(name)
        if report is not None and report.state is AdapterState.UNLOADING:
            return _answer(UnloadAnswer(lora_name=name, unloaded=False, message=report.message), 202)
        return _answer(UnloadAnswer(lora_name=name, unloaded=True), 200)


def _add_faults(app: FastAPI) -> None:
    async def fault(request: Request, error: Exception) -> Response:
        assert isinstance(error, _Fault)
        return _answer(ErrorBody(error=error.detail), error.status)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        said = "; ".join(
            ".".join(str(part) for part in one["loc"] if part not in ("body", "query")) + ": " + one["msg"]
            for one in error.errors()
        )
        return _answer(_error("InvalidRequest", said.removeprefix(": ")), 400)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _ROUTING_CODES.get(error.status_code, "InvalidRequest")
        words = f"{request.method} {request.url.path}: {error.detail}."
        answer = _answer(_error(code, words), error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    async def unforeseen(request: Request, error: Exception) -> Response:
        words = f"The sidecar broke on this request: {type(error).__name__}; see its log."
        return _answer(_error("InternalError", words, retryable=True), 500)

    app.add_exception_handler(_Fault, fault)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, unforeseen)


def _error(code: str, message: str, retryable: bool = False) -> ErrorBody:
    return ErrorBody(error=ErrorDetail(code=code, message=message, retryable=retryable))


def _not_stored(error: OSError) -> _Fault:
    words = f"The order could not be stored, so nothing was changed: {error.strerror or error}."
    return _Fault(507, "NotStored", words, retryable=True)


def _answer(body: BaseModel, status: int) -> Response:
    return Response(body.model_dump_json(), status, media_type="application/json")


async def _settled(reconciler: Reconciler, name: str) -> None:
    """Return when a load is over, either way, or no longer wanted."""
    while True:
        revision, report = reconciler.revision, reconciler.report(name)
        if report is None or report.state not in (AdapterState.PENDING, AdapterState.LOADING):
            return
        await reconciler.changed(revision)


async def _left(reconciler: Reconciler, name: str) -> None:
    """Return when an unload is over, or the adapter is wanted again."""
    while True:
        revision, report = reconciler.revision, reconciler.report(name)
        if report is None or report.state is not AdapterState.UNLOADING:
            return
        await reconciler.changed(revision)


async def _within(seconds: float, event: Awaitable[None], stopping: asyncio.Event) -> None:
    """Wait for an event, at most so long, and not into the sidecar's own end."""
    waiting = asyncio.ensure_future(event)
    leaving = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait((waiting, leaving), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        leaving.cancel()

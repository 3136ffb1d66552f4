"""The routes of LoRA adapters: take the order, wait for what becomes of it, turn the outcome into a status.

What to do about an adapter is decided in `adapters`; this module knows only how to say it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response

from patio.access.connection_limits import LongPolls
from patio.access.loopback import is_loopback
from patio.access.openness import EVERYONE, open_to
from patio.adapters.desired import Outcome
from patio.adapters.published_state import PublishedState
from patio.adapters.reconciler import Reconciler
from patio.credentials.sealing import SealedError
from patio.engine.base import EngineReason
from patio.routes.access import peer_of
from patio.routes.downloads import DOWNLOAD_STATUS
from patio.routes.responses import ApiError, answer, within
from patio_protocol.adapters import (
    AdapterList,
    AdapterReport,
    AdapterState,
    LoadRequest,
    PreparedState,
    UnloadAnswer,
    UnloadRequest,
)
from patio_protocol.engines import TRIAL_PREFIX

ERROR_STATUS: Mapping[str, int] = {
    EngineReason.ADAPTER_NOT_FOUND: 404,
    EngineReason.ADAPTER_REJECTED: 422,
    EngineReason.LORA_UNAVAILABLE: 422,
    EngineReason.EVICTED: 422,
    EngineReason.UNAUTHORIZED: 502,
}
"""Status of a load that failed, by reason. The engine's own codes do not do: vLLM answers 500 to bad adapters."""
RETRYABLE_STATUS = 503

_UNDER_WAY = (AdapterState.PENDING, AdapterState.DOWNLOADING, AdapterState.LOADING)


ENDING_SECONDS = 0.5
"""For which a long-poll is held that comes while the sidecar ends: no longer than the rest of that takes."""
TOO_MANY_SECONDS = 10
"""Seconds after which a long-poll that was turned away may come again."""


def add_adapters(
    app: FastAPI,
    reconciler: Reconciler,
    opened: Callable[[LoadRequest], LoadRequest],
    stopping: asyncio.Event,
    polls: LongPolls,
) -> None:
    """Add the routes. `opened` puts what is sealed in an order into its `config`."""
    published = reconciler.published

    @app.get("/v1/lora_adapters", response_model=AdapterList)
    @open_to(EVERYONE)
    async def adapters(
        call: Request,
        revision: Annotated[str | None, Query(max_length=128, description="Revision of the last answer.")] = None,
        wait: Annotated[float, Query(ge=0, le=300, description="Seconds to wait for another revision.")] = 0,
    ) -> Response:
        """List every adapter, desired or loaded. With `revision` and `wait`, answer when the revision changes."""
        if revision is not None and wait:
            await _poll(call, revision, wait)
        return Response(published.json, media_type="application/json")

    async def _poll(call: Request, revision: str, wait: float) -> None:
        """Wait for another revision, unless too many do so already."""
        if stopping.is_set():
            # Its caller asks again as soon as it has an answer, and the end has begun.
            await asyncio.sleep(min(wait, ENDING_SECONDS))
            return
        peer = peer_of(call.scope) or ""
        if not polls.enter(peer):
            message = "Too many long-polls are open, from this caller or in total. Ask without `wait`, or later."
            raise ApiError(429, "TooManyLongPolls", message, True, retry_after=TOO_MANY_SECONDS)
        if not is_loopback(peer):
            polls.last_from_outside = time.time()
        try:
            await within(wait, published.changed(revision), stopping, call)
        finally:
            polls.leave(peer)

    @app.post("/v1/load_lora_adapter", response_model=AdapterReport, responses={202: {"model": AdapterReport}})
    @app.post("/load_lora_adapter", response_model=AdapterReport, responses={202: {"model": AdapterReport}})
    async def load(request: LoadRequest, call: Request) -> Response:
        """Order an adapter, or only its files. 200 once the engine lists it (or they are there), 202 after the wait."""
        if request.lora_name.startswith(TRIAL_PREFIX):
            message = f"Names that begin with {TRIAL_PREFIX} are reserved: the sidecar tries weights under them."
            raise ApiError(400, "InvalidRequest", message)
        try:
            request = opened(request)
        except SealedError as error:
            raise ApiError(409, error.code, error.message, error.retryable) from None
        try:
            rejection = await reconciler.order_load(request)
        except OSError as error:
            raise _not_stored(error) from error
        if rejection is not None:
            raise ApiError(409, rejection.reason, rejection.message, rejection.retryable)
        if request.prepare:
            return await _prepared(request, call)
        if request.patience:
            await within(request.patience, _settled(published, request.lora_name), stopping, call)
        report = published.report(request.lora_name)
        if report is not None and not request.patience:
            # The order was accepted, and its caller does not wait: even an error is only the state so far.
            return answer(report, 200 if report.state is AdapterState.LOADED else 202)
        if report is None or report.state is AdapterState.UNLOADING:
            raise ApiError(409, "Superseded", f"Another order unloads adapter {request.lora_name}.")
        if report.state is AdapterState.FAILED:
            status = RETRYABLE_STATUS if report.retryable else ERROR_STATUS.get(report.reason, 422)
            status = DOWNLOAD_STATUS.get(report.reason, status)
            raise ApiError(status, report.reason, report.message, report.retryable)
        return answer(report, 200 if report.state is AdapterState.LOADED else 202)

    async def _prepared(request: LoadRequest, call: Request) -> Response:
        """Answer an order for files: 200 once they are there, 202 if the wait ends first."""
        if request.patience:
            await within(request.patience, _fetched(published, request.lora_name), stopping, call)
        report = published.report(request.lora_name)
        if report is None:
            raise ApiError(409, "Superseded", f"Another order unloads adapter {request.lora_name}.")
        prepared = report.prepared
        if request.patience and prepared is not None and prepared.state is PreparedState.FAILED:
            status = DOWNLOAD_STATUS.get(prepared.reason, RETRYABLE_STATUS)
            raise ApiError(status, prepared.reason, prepared.message, prepared.retryable)
        # No longer ahead: another order wants it loaded by now, and that order is answered for itself.
        is_there = prepared is None or prepared.state is PreparedState.PREPARED
        return answer(report, 200 if is_there else 202)

    @app.post("/v1/unload_lora_adapter", response_model=UnloadAnswer, responses={202: {"model": UnloadAnswer}})
    @app.post("/unload_lora_adapter", response_model=UnloadAnswer, responses={202: {"model": UnloadAnswer}})
    async def unload(request: UnloadRequest, call: Request) -> Response:
        """Unload an adapter. 200 once the engine no longer lists it, 202 if the wait ends first."""
        name = request.lora_name
        try:
            outcome = await reconciler.order_unload(name, request.owner)
        except OSError as error:
            raise _not_stored(error) from error
        if outcome is Outcome.UNKNOWN and request.owner is None:
            raise ApiError(404, "NotFound", f"Adapter {name} is neither desired nor loaded on this pod.")
        if outcome is Outcome.KEPT:
            message = f"{request.owner} has no order for {name} on this pod. Orders of other owners stay."
            return answer(UnloadAnswer(lora_name=name, unloaded=True, message=message), 200)
        await within(request.wait, _unloaded(published, name), stopping, call)
        report = published.report(name)
        if report is not None and report.state is AdapterState.UNLOADING:
            return answer(UnloadAnswer(lora_name=name, unloaded=False, message=report.message), 202)
        return answer(UnloadAnswer(lora_name=name, unloaded=True), 200)


def _not_stored(error: OSError) -> ApiError:
    message = f"The sidecar could not store the order, and changed nothing: {error.strerror or error}."
    return ApiError(507, "NotStored", message, retryable=True)


async def _settled(published: PublishedState, name: str) -> None:
    """Return when a load is over, either way, or no longer wanted."""
    while True:
        report = published.report(name)
        if report is None or report.state not in _UNDER_WAY:
            return
        await published.report_changed(name, report)


async def _fetched(published: PublishedState, name: str) -> None:
    """Return when what is fetched ahead is there, failed, or no longer fetched ahead."""
    while True:
        report = published.report(name)
        prepared = None if report is None else report.prepared
        if prepared is None or prepared.state in (PreparedState.PREPARED, PreparedState.FAILED):
            return
        await published.report_changed(name, report)


async def _unloaded(published: PublishedState, name: str) -> None:
    """Return when an unload is over, or the adapter is wanted again."""
    while True:
        report = published.report(name)
        if report is None or report.state is not AdapterState.UNLOADING:
            return
        await published.report_changed(name, report)

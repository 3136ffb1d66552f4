"""How every route answers: models as JSON, every fault in the one error shape, waits that end with the sidecar.

Below the modules with the routes. Faults of validation, of routing and unforeseen ones take the same shape as those
that a route raises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from patio_protocol.adapters import ErrorBody, ErrorDetail

INTERNAL_ERROR = "InternalError"
"""The code of what the sidecar itself broke on; its log has more. Answered with 500 by every route."""
LONGEST_MESSAGE = 1000
"""Characters of a message about a request that is wrong."""
_ROUTING_CODES = {404: "NotFound", 405: "MethodNotAllowed"}


class ApiError(Exception):
    """An answer in the error shape."""

    def __init__(
        self, status: int, code: str, message: str, retryable: bool = False, *, retry_after: int | None = None
    ) -> None:
        """`retry_after` is in seconds, for callers that would ask again at once."""
        super().__init__(message)
        self.status = status
        self.headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        self.detail = ErrorDetail(code=code, message=message, retryable=retryable)


def answer(body: BaseModel, status: int) -> Response:
    """Return a model as a JSON answer."""
    return Response(body.model_dump_json(), status, media_type="application/json")


async def within(seconds: float | None, event: Awaitable[None], stopping: asyncio.Event, call: Request) -> None:
    """Wait until `event` ends, `seconds` have passed (None: no limit), the sidecar stops or the caller hangs up."""
    tasks = [asyncio.ensure_future(task) for task in (event, stopping.wait(), _hung_up(call))]
    try:
        await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


async def _hung_up(call: Request) -> None:
    """Return when the caller's connection is closed. The body has been read, or is of no interest."""
    while (await call.receive())["type"] != "http.disconnect":
        pass


def add_error_handlers(app: FastAPI) -> None:
    """Give every fault the error shape."""

    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        response = answer(ErrorBody(error=error.detail), error.status)
        response.headers.update(error.headers)
        return response

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        text = "; ".join(
            ".".join(str(part) for part in detail["loc"] if part not in ("body", "query")) + ": " + detail["msg"]
            for detail in error.errors()
        )
        return answer(_error("InvalidRequest", _cut(text.removeprefix(": "))), 400)

    async def routing(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = _ROUTING_CODES.get(error.status_code, "InvalidRequest")
        message = _cut(f"{request.method} {request.scope['path']}: {error.detail}.")
        response = answer(_error(code, message), error.status_code)
        response.headers.update(error.headers or {})
        return response

    async def unforeseen(request: Request, error: Exception) -> Response:
        message = f"An internal error occurred ({type(error).__name__}). The sidecar's log has the traceback."
        return answer(_error(INTERNAL_ERROR, message, retryable=True), 500)

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, routing)
    app.add_exception_handler(Exception, unforeseen)


def _cut(text: str) -> str:
    """Bound a message in which the caller's own words come back."""
    return text if len(text) <= LONGEST_MESSAGE else text[: LONGEST_MESSAGE - 1] + "…"


def _error(code: str, message: str, retryable: bool = False) -> ErrorBody:
    return ErrorBody(error=ErrorDetail(code=code, message=message, retryable=retryable))

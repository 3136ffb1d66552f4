"""Sends a request to a worker of a fallback, and the answer to the client: bytes unchanged, as they come.

The model of a fallback has another name, which the body has to say, so Envoy cannot send the request itself. Nothing
else passes here. A worker that takes no connection, or breaks it before its answer, is followed by one other worker.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from patio_gateway.snapshot import Model, Worker

ATTEMPTS = 2
HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "upgrade"),
        *("transfer-encoding", "content-length", "host", "expect"),
    }
)
"""Headers that are about a connection, or that follow from what is sent."""


class WorkersFailedError(Exception):
    """No worker answered; the text says why."""


def renamed(body: bytes, model: str) -> bytes | None:
    """Return a JSON body that asks for another model; None if it is not a JSON object."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return json.dumps({**content, "model": model}, ensure_ascii=True).encode()


class Forwarder:
    """The connections to workers of fallbacks."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        """`client` has its limits and timeouts; whoever made it closes it."""
        self._client = client
        self._in_flight: Counter[str] = Counter()

    async def forward(self, request: Request, body: bytes, model: Model) -> Response:
        """Return the answer of a worker of `model` to a request with another body.

        Raises:
            WorkersFailedError: no worker answered.

        """
        workers = sorted(model.workers, key=lambda worker: self._in_flight[worker.name])
        reason = "it has no worker."
        for worker in workers[:ATTEMPTS]:
            try:
                return await self._sent(request, body, model, worker)
            except httpx.TransportError as error:
                reason = f"{worker.name}: {error or type(error).__name__}"
        raise WorkersFailedError(reason)

    async def _sent(self, request: Request, body: bytes, model: Model, worker: Worker) -> Response:
        host, port = worker.address
        target = request.scope["raw_path"] + (b"?" + query if (query := request.scope["query_string"]) else b"")
        url = httpx.URL(scheme="http", host=host, port=port, raw_path=target)
        sent = self._client.build_request(request.method, url, headers=_request_headers(request), content=body)
        self._in_flight[worker.name] += 1
        try:
            answer = await self._client.send(sent, stream=True)
        except BaseException:
            self._end(worker.name)
            raise
        return StreamingResponse(
            self._bytes(answer, worker.name),
            answer.status_code,
            {**_answer_headers(answer), "x-patio-pod": worker.name, "x-patio-reason": f"fallback {model.names[0]}"},
        )

    async def _bytes(self, answer: httpx.Response, worker: str) -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_raw():
                yield chunk
        finally:
            self._end(worker)
            await answer.aclose()

    def _end(self, worker: str) -> None:
        self._in_flight[worker] -= 1
        if self._in_flight[worker] <= 0:
            del self._in_flight[worker]


def _request_headers(request: Request) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in request.headers.items()
        if name not in HOP_BY_HOP and not name.startswith("x-patio-")
    ]


def _answer_headers(answer: httpx.Response) -> Mapping[str, str]:
    return {
        name: value
        for name, value in answer.headers.items()
        if name not in HOP_BY_HOP and not name.startswith("x-patio-")
    }

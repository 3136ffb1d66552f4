"""Stands before every route: a call from outside the pod that changes something goes on only with a proof.

What counts as one is `access.gate`'s to say. A new route that changes something is guarded without anyone thinking of
it, since everything but a read is; the body is read here, once its sender has proven who it is, and given on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patio.access.gate import Gate
from patio.access.proof import BODY_TOO_LARGE, Denial, Request
from patio.api.access_protocol import ENDORSEMENTS_HEADER, MAX_BODY, PROOF_SCHEME, ProofClaims
from patio.api.protocol import ErrorBody, ErrorDetail
from patio.api.routes.answers import answer

log = logging.getLogger(__name__)

PROVEN = "patio.proven"
"""Key of a call's scope: true for a call that the operator signed. Nothing that a caller sends gets there."""


def add_access(app: FastAPI, gate: Gate, count_denial: Callable[[str], None]) -> None:
    """Put the guard before the application's routes."""
    app.add_middleware(_Guard, gate=gate, count_denial=count_denial)


class _Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, gate: Gate, count_denial: Callable[[str], None]) -> None:
        self._app = app
        self._gate = gate
        self._count_denial = count_denial

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or answer it."""
        if scope["type"] != "http" or self._gate.is_open(_peer(scope), scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        admitted = self._gate.admit(
            Request(scope["method"], _target(scope)),
            scope["path"],
            _headers(scope, b"authorization"),
            _listed(_headers(scope, ENDORSEMENTS_HEADER.lower().encode())),
        )
        if isinstance(admitted, ProofClaims):
            body = await _body(receive)
            if body is None:
                return  # the caller hung up
            denial = self._gate.finish(admitted, body) if len(body) <= MAX_BODY else BODY_TOO_LARGE
            if denial is None:
                await self._app({**scope, PROVEN: True}, _again(body, receive), send)
                return
            admitted = denial
        if isinstance(admitted, Denial):
            await self._deny(admitted, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _deny(self, denial: Denial, scope: Scope, receive: Receive, send: Send) -> None:
        self._count_denial(denial.code)
        log.info(
            "call refused code=%s peer=%s method=%s path=%r", denial.code, _peer(scope), scope["method"], scope["path"]
        )
        detail = ErrorDetail(code=denial.code, message=denial.message, retryable=denial.retryable)
        response = answer(ErrorBody(error=detail), denial.status)
        if denial.status == 401:
            response.headers["www-authenticate"] = f'{PROOF_SCHEME} error="{denial.code}"'
        await response(scope, receive, send)


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


def _target(scope: Scope) -> str:
    """Path and query as they stood in the request line."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target: bytes = scope["raw_path"] + query
    return target.decode("latin-1")


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _listed(values: list[str]) -> list[str]:
    return [part for value in values for one in value.split(",") if (part := one.strip())]


async def _body(receive: Receive) -> bytes | None:
    """Read the body, at most one piece beyond what is allowed; None when the caller hung up."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        parts.append(part)
        size += len(part)
        if size > MAX_BODY or not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """Give the body on, then whatever else comes: that the caller hung up."""
    given = False

    async def give() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give

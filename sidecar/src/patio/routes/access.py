"""Stands before every route: a call goes on only if its endpoint is open to its caller, or with a proof.

To whom an endpoint is open it declares itself (`access.openness`); one that declares nothing is closed. Which endpoint
a call would reach is asked of the application's own routes, with the router's own question, so no spelling of a path or
a method can be seen by one and not by the other. What follows is `access.gate`'s to say. Bodies are read here, bounded
in size, time and depth, once their senders may send one, and given on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from patio.access.authorizer import Authorizer, Call
from patio.access.limits import BODY_TOO_SLOW, judge_head, judge_json
from patio.access.loopback import address_of, is_loopback
from patio.access.openness import CLOSED, Openness, To, openness_of
from patio.access.proof import BODY_TOO_LARGE, MISSING, NO_KEYS, NOT_MEANT, Request, RequestRejection
from patio.logs import LineLimit
from patio.routes.responses import answer
from patio_protocol.adapters import ErrorBody, ErrorDetail
from patio_protocol.authentication import ENDORSEMENTS_HEADER, PROOF_SCHEME, ProofClaims

log = logging.getLogger(__name__)

PROVEN = "patio.proven"
"""Key of a call's scope: true for a call that the operator signed. Nothing that a caller sends gets there."""
BODY_SECONDS = 20.0
"""In which a body has to arrive whole."""
SHOWN = 200
"""Characters of a path in the log."""


def add_access(app: FastAPI, gate: Authorizer, count_rejection: Callable[[str], None]) -> None:
    """Put the guard before the application's routes."""
    # A redirect would answer for a path that no route has, with an address out of the Host header.
    app.router.redirect_slashes = False
    app.add_middleware(_Guard, routes=app.router.routes, gate=gate, count_rejection=count_rejection)


@dataclass(frozen=True, slots=True)
class _Reached:
    """What a call comes to."""

    openness: Openness
    endpoint: bool
    """Whether an endpoint runs; otherwise the router answers by itself: 404, or 405."""


class _Matcher:
    """Asks the routes as the router will: the first that matches wholly, else the first whose method differs.

    What it found for a path without parameters it remembers; there are no more of these than routes.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._routes = routes
        self._cache: dict[tuple[str, str], _Reached] = {}
        self._route_count = 0

    def match(self, scope: Scope) -> _Reached:
        """Return what a call comes to."""
        if self._route_count != len(self._routes):
            self._cache, self._route_count = {}, len(self._routes)
        key = (scope["method"], scope["path"])
        cached = self._cache.get(key)
        if cached is not None:
            return cached
        partly: Openness | None = None
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                reached = _Reached(openness_of(child.get("endpoint")), True)
                if not child.get("path_params", True):
                    self._cache[key] = reached
                return reached
            if match is Match.PARTIAL and partly is None:
                partly = openness_of(child.get("endpoint"))
        return _Reached(partly or CLOSED, False)


class _Guard:
    """ASGI middleware."""

    def __init__(
        self, app: ASGIApp, routes: Sequence[BaseRoute], gate: Authorizer, count_rejection: Callable[[str], None]
    ) -> None:
        self._app = app
        self._matcher = _Matcher(routes)
        self._gate = gate
        self._count_rejection = count_rejection
        self._lines = LineLimit()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a call through, or answer it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        rejection = judge_head(scope["path"], _raw_target(scope), scope["headers"])
        if rejection is not None:
            await self._reject(rejection, scope, receive, send)
            return
        reached = self._matcher.match(scope)
        admitted = self._admit(scope, reached)
        if isinstance(admitted, RequestRejection):
            await self._reject(admitted, scope, receive, send)
            return
        if reached.openness.to is To.EVERYONE or not reached.endpoint:
            await self._app(scope, receive, send)  # which reads no body
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _body(receive, reached.openness.max_body)
        except TimeoutError:
            await self._reject(BODY_TOO_SLOW, scope, receive, send)
            return
        if body is None:
            return  # the caller hung up
        rejection = BODY_TOO_LARGE if len(body) > reached.openness.max_body else None
        if rejection is None and any("json" in value.lower() for value in _headers(scope, b"content-type")):
            rejection = judge_json(body)
        if rejection is None and admitted is not None:
            rejection = self._gate.finish(admitted, body)
        if rejection is not None:
            await self._reject(rejection, scope, receive, send)
            return
        proven = {} if admitted is None else {PROVEN: True}
        await self._app({**scope, **proven}, _replayed(body, receive), send)

    def _admit(self, scope: Scope, reached: _Reached) -> ProofClaims | RequestRejection | None:
        """Judge a call by its head; a proof is good only once the body is known."""
        openness, inside = reached.openness, is_loopback(peer_of(scope))
        authorization = _headers(scope, b"authorization")
        if openness.admits is not None:
            shown = authorization[0] if len(authorization) == 1 else None
            return None if openness.admits(shown) else RequestRejection("RouterKeyWrong", openness.message)
        if inside and not reached.endpoint:
            return None  # a 404 or 405 says more than a 401, and only the pod sees it
        call = Call(peer_of(scope), scope["method"], _headers(scope, b"content-type"), hosts=_headers(scope, b"host"))
        if self._gate.is_open(call, openness):
            return None
        admitted = self._gate.admit(
            Request(scope["method"], _raw_target(scope).decode("latin-1")),
            openness,
            authorization,
            _listed(_headers(scope, ENDORSEMENTS_HEADER.lower().encode())),
        )
        if inside and admitted in (MISSING, NO_KEYS):
            return NOT_MEANT
        return admitted if isinstance(admitted, ProofClaims | RequestRejection) else None

    async def _reject(self, rejection: RequestRejection, scope: Scope, receive: Receive, send: Send) -> None:
        self._count_rejection(rejection.code)
        suppressed = self._lines.take()
        if suppressed is not None:
            log.info(
                "call rejected code=%s peer=%s method=%s path=%s suppressed=%d",
                rejection.code,
                peer_of(scope),
                scope["method"][:SHOWN],
                scope["path"][:SHOWN],
                suppressed,
            )
        detail = ErrorDetail(code=rejection.code, message=rejection.message, retryable=rejection.retryable)
        response = answer(ErrorBody(error=detail), rejection.status)
        if rejection.status == 401:
            scheme = "Bearer" if rejection.code == "RouterKeyWrong" else PROOF_SCHEME
            response.headers["www-authenticate"] = f'{scheme} error="{rejection.code}"'
        await response(scope, receive, send)


def peer_of(scope: Scope) -> str | None:
    """Return the address of the caller."""
    client = scope.get("client")
    return address_of(client[0]) if client else None


def _raw_target(scope: Scope) -> bytes:
    """Path and query as they stood in the request line."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    target: bytes = scope["raw_path"] + query
    return target


def _headers(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _listed(values: list[str]) -> list[str]:
    return [stripped for value in values for item in value.split(",") if (stripped := item.strip())]


async def _body(receive: Receive, most: int) -> bytes | None:
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
        if size > most or not message.get("more_body", False):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body on, then whatever else comes: that the caller hung up."""
    delivered = False

    async def give() -> Message:
        nonlocal delivered
        if delivered:
            return await receive()
        delivered = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give

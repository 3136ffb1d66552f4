"""The route by which this sidecar proves which pod it is in. Never open: not from inside the pod either.

Its answer is the pod's token, readable for the caller alone. The guard lets no call reach it without the operator's
signature, and says so in the scope of a call; the route looks for that itself.
"""

from __future__ import annotations

from fastapi import FastAPI, Request

from patio.access.openness import OPERATOR, open_to
from patio.access.proof import MISSING_EVERYWHERE
from patio.credentials.sealing import Sealing
from patio.credentials.token import TokenError
from patio.routes.access import PROVEN
from patio.routes.responses import ApiError
from patio_protocol.credentials import HANDSHAKE_PATH, TOKEN_MISSING, HandshakeAnswer, HandshakeRequest


def add_credentials(app: FastAPI, sealing: Sealing) -> None:
    """Add the route."""

    @app.post(HANDSHAKE_PATH)
    @open_to(OPERATOR)
    async def handshake(request: HandshakeRequest, call: Request) -> HandshakeAnswer:
        """Prove which pod this is: with the sidecar's key, and with the pod's token in a box for the caller's key.

        Every caller needs the operator's signature, also from loopback.
        """
        if not call.scope.get(PROVEN, False):
            raise ApiError(401, MISSING_EVERYWHERE.code, MISSING_EVERYWHERE.message)
        try:
            answer = sealing.answer(request)
        except TokenError as error:
            raise ApiError(409, TOKEN_MISSING, str(error)) from error
        if answer is None:
            raise ApiError(400, "InvalidRequest", "key: not an X25519 public key (32 bytes as base64url).")
        return answer

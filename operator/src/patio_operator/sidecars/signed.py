"""Signs the calls to sidecars on their way: an `httpx.Auth` for each pod, given to `patio.client`.

A sidecar that was admitted under an older key answers that it does not know this one; the call is then repeated, signed
anew, with the endorsements that lead from one to the other.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator

import httpx

from patio.api.access_protocol import ENDORSEMENTS_HEADER, PROOF_SCHEME, UNKNOWN_KEY
from patio_operator.access.keys import SigningKey
from patio_operator.access.proofs import proof


class SignedCalls(httpx.Auth):
    """Signs calls to one pod with the key that is current when they are sent."""

    requires_request_body = True

    def __init__(self, pod_uid: str, key: Callable[[], SigningKey], clock: Callable[[], float] = time.time) -> None:
        self._pod_uid = pod_uid
        self._key = key
        self._clock = clock

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Sign the request; once more with endorsements if it is asked for."""
        key = self._key()
        self._sign(request, key)
        response = yield request
        asked = f'error="{UNKNOWN_KEY}"' in response.headers.get("www-authenticate", "")
        if response.status_code == 401 and asked and key.endorsements:
            request.headers[ENDORSEMENTS_HEADER] = ", ".join(key.endorsements)
            self._sign(request, key)
            yield request

    def _sign(self, request: httpx.Request, key: SigningKey) -> None:
        target = request.url.raw_path.decode("ascii")
        jti = secrets.token_urlsafe(16)
        token = proof(key, self._pod_uid, request.method, target, request.content, self._clock(), jti)
        request.headers["Authorization"] = f"{PROOF_SCHEME} {token}"

"""Signs the calls to sidecars on their way: an `httpx.Auth` for each pod, given to `patio_protocol.client`.

A sidecar that was admitted under an older key answers that it does not know this one; the call is then repeated, signed
again, with the endorsements that lead from one to the other. If that is no help either, the sidecar may have been
admitted under a newer one, by a replica that has just made it: the key is looked up and the call repeated once more.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx

from patio_operator.security.proofs import proof
from patio_operator.security.signing_keys import SigningKey
from patio_protocol.authentication import ENDORSEMENTS_HEADER, PROOF_SCHEME, UNKNOWN_KEY


class ProofAuth(httpx.Auth):
    """Signs calls to one pod with the key that is current when they are sent; for async clients."""

    def __init__(
        self,
        pod_uid: str,
        key: Callable[[], SigningKey],
        look_up: Callable[[], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the pod, how to get the current key, and how to have it looked up again."""
        self._pod_uid = pod_uid
        self._key = key
        self._look_up = look_up
        self._clock = clock

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Sign the request, and again while the sidecar does not know the key and there is more to show it."""
        await request.aread()
        key = self._key()
        self._sign(request, key)
        if not _unknown((yield request)):
            return
        if key.endorsements:
            self._sign(request, key, with_endorsements=True)
            if not _unknown((yield request)):
                return
        await self._look_up()
        newer = self._key()
        if newer.public != key.public:
            self._sign(request, newer, with_endorsements=True)
            yield request

    def _sign(self, request: httpx.Request, key: SigningKey, *, with_endorsements: bool = False) -> None:
        target = request.url.raw_path.decode("ascii")
        jti = secrets.token_urlsafe(16)
        token = proof(key, self._pod_uid, request.method, target, request.content, self._clock(), jti)
        request.headers["Authorization"] = f"{PROOF_SCHEME} {token}"
        if with_endorsements:
            request.headers[ENDORSEMENTS_HEADER] = ", ".join(key.endorsements)


def _unknown(response: httpx.Response) -> bool:
    challenge = response.headers.get("www-authenticate", "")
    return response.status_code == 401 and f'error="{UNKNOWN_KEY}"' in challenge

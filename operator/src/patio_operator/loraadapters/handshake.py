"""Has sidecars prove which pod they are in, before credentials are sent to them.

One signed call (`patio_protocol.credentials`) and one question to the API server, for each sidecar once and again
after a while or when the sidecar has restarted. What is kept is the key that a sidecar proved to have, never a
token. Failures are distinguished by cause: `UnprovenError` is about the pod, `TokenReviewError` about the operator and
its API server.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from patio_operator.pods.engine_pod import EnginePod
from patio_operator.security.sealing import token_of
from patio_operator.security.token_rules import objection
from patio_protocol.authentication import PROOF_MISSING
from patio_protocol.client import SidecarClient
from patio_protocol.credentials import TOKEN_MISSING, HandshakeRequest
from patio_protocol.errors import RejectedError
from patio_protocol.sealed_boxes import new_key

PROVEN_SECONDS = 1800.0
"""After which a sidecar proves itself once more."""
MOST_PROVEN = 8192
"""Sidecars whose keys are kept; of more the oldest prove themselves again."""

Review = Callable[[str], Awaitable[Mapping[str, Any]]]
"""Asks the API server about a token; returns its TokenReview, or raises `TokenReviewError`."""


class UnprovenError(Exception):
    """What answers at a pod's address did not prove to be its sidecar. The message has the remedy."""


@dataclass(frozen=True)
class _Proven:
    key: str
    until: float


class Handshakes:
    """Makes handshakes, and remembers whose were good."""

    def __init__(self, review: Review, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` counts seconds."""
        self._review = review
        self._clock = clock
        self._proven: dict[str, _Proven] = {}

    async def key(self, pod: EnginePod, client: SidecarClient) -> str:
        """Return the key of a pod's sidecar, which it proved to have.

        Raises:
            UnprovenError: it did not.
            TokenReviewError: the API server did not say.
            SidecarError: no answer, or a rejection that has nothing to do with this.

        """
        proven = self._proven.get(pod.uid)
        if proven is not None and proven.until > self._clock():
            return proven.key
        key = await self._shake(pod, client)
        self._proven.pop(pod.uid, None)
        while len(self._proven) >= MOST_PROVEN:
            del self._proven[next(iter(self._proven))]
        self._proven[pod.uid] = _Proven(key, self._clock() + PROVEN_SECONDS)
        return key

    def forget(self, pod_uid: str) -> None:
        """Have a sidecar prove itself again: it has another key by now."""
        self._proven.pop(pod_uid, None)

    def clear(self) -> None:
        """Forget everything."""
        self._proven.clear()

    async def _shake(self, pod: EnginePod, client: SidecarClient) -> str:
        own_key = new_key()
        try:
            answer = await client.handshake(HandshakeRequest(key=own_key.public))
        except RejectedError as error:
            problem = _not_a_proof(error)
            if problem is None:
                raise
            raise UnprovenError(_sentence(pod, problem)) from None
        token = token_of(answer, own_key, pod.uid)
        if token is None:
            raise UnprovenError(_sentence(pod, f"the answer from {pod.ip} has no readable proof"))
        problem = objection(await self._review(token), pod.namespace, pod.uid)
        if problem is not None:
            raise UnprovenError(_sentence(pod, problem))
        return answer.key


def _not_a_proof(error: RejectedError) -> str | None:
    """Say what a rejection means if it means that there is no proof."""
    if error.code == TOKEN_MISSING:
        return "it has no service account token"
    if error.code == PROOF_MISSING:
        return "it has no key of the operator"
    if error.status in (404, 405) or error.code == "UnreadableAnswer":
        return "it does not know the handshake, so it is older than this operator or not a sidecar"
    return None


def _sentence(pod: EnginePod, problem: str) -> str:
    return (
        f"The operator sends credentials only to a sidecar that proves itself. The sidecar of pod {pod.name} did not: "
        f"{problem}. Recreate the pod."
    )

"""The state behind access control, and the way of one call through it.

Asked by `routes.access`: first whether a call is open at all, then whether its head proves enough (`admit`), then,
with the body read, whether that is the body that was signed and the proof is new (`finish`). The one holder of the
keys learnt and of the proofs used; the clock is given to it.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from patio.access.keys import Keys, follow
from patio.access.loopback import is_loopback, is_meant
from patio.access.openness import Openness, To
from patio.access.proof import (
    MISSING,
    MISSING_EVERYWHERE,
    NO_KEYS,
    REPLAYED,
    TOO_MANY,
    UNREADABLE,
    WRONG_HOOK,
    WRONG_SIGNATURE,
    Request,
    RequestRejection,
    judge,
    judge_body,
    read,
    verify,
)
from patio.access.replay import Use, UsedProofs
from patio.access.settings import AccessSettings
from patio_protocol.authentication import DRAIN_SCHEME, PROOF, PROOF_SCHEME, UNKNOWN_KEY, ProofClaims


@dataclass(frozen=True, slots=True)
class Hook:
    """The preStop hook of this pod called."""


@dataclass(frozen=True, slots=True)
class Call:
    """Where a call comes from and how it presents itself."""

    peer: str | None
    """The address of the socket, never of a header."""
    method: str
    content_types: Sequence[str] = ()
    hosts: Sequence[str] = ()


class Authorizer:
    """Decides about every call that reaches an endpoint."""

    def __init__(
        self, settings: AccessSettings, clock: Callable[[], float], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`clock` is the node's, which may be set while this runs; `monotonic` measures how long it has run."""
        self._settings = settings
        self._clock = clock
        self._monotonic = monotonic
        self._began = monotonic()
        self._keys = Keys(frozenset(settings.keys))
        self._used = UsedProofs()
        self.last_accepted = 0.0
        """Unix seconds of the last call whose proof was accepted; 0: none since the start."""

    def is_open(self, call: Call, openness: Openness) -> bool:
        """Whether a call that reaches an endpoint needs no proof."""
        if openness.to is To.OPERATOR:
            return False
        if openness.to is To.EVERYONE or not self._settings.enforced:
            return True
        return is_loopback(call.peer) and is_meant(call.method, call.content_types, call.hosts)

    def admit(
        self, request: Request, openness: Openness, authorization: Sequence[str], endorsements: Sequence[str]
    ) -> ProofClaims | Hook | RequestRejection:
        """Judge a call by its head.

        Args:
            request: what came.
            openness: what its endpoint declares.
            authorization: the values of all Authorization headers.
            endorsements: compact JWS of the Endorsements header, oldest first.

        """
        if len(authorization) != 1:
            return UNREADABLE if authorization else self._missing(openness)
        scheme, _, credentials = authorization[0].partition(" ")
        if scheme.lower() == DRAIN_SCHEME.lower() and openness.to is To.HOOK:
            return Hook() if self._is_hook(credentials) else WRONG_HOOK
        if scheme.lower() != PROOF_SCHEME.lower():
            return self._missing(openness)
        return self._proven(request, credentials, endorsements)

    def finish(self, claims: ProofClaims, body: bytes) -> RequestRejection | None:
        """Judge the body, and take the proof: it is not good again."""
        rejection = judge_body(claims, body)
        if rejection is None:
            use = self._used.use(claims.jti, claims.exp, self._monotonic())
            rejection = {Use.FIRST: None, Use.REUSED: REPLAYED, Use.FULL: TOO_MANY}[use]
        if rejection is None:
            self.last_accepted = self._clock()
        return rejection

    def _missing(self, openness: Openness) -> RequestRejection:
        if openness.to is To.OPERATOR:
            return MISSING_EVERYWHERE
        return MISSING if self._settings.keys else NO_KEYS

    def _is_hook(self, proof: str) -> bool:
        digest = hashlib.sha256(proof.encode()).hexdigest()
        return hmac.compare_digest(digest, self._settings.drain_proof_sha256)

    def _proven(self, request: Request, text: str, endorsements: Sequence[str]) -> ProofClaims | RequestRejection:
        if not self._settings.keys:
            return NO_KEYS
        now = self._clock()
        token = read(text)
        if token is None or token.header.typ != PROOF:
            return UNREADABLE
        signer, keys = token.header.kid, self._keys
        if not keys.knows(signer, now):
            keys = follow(keys, endorsements, now)
            if not keys.knows(signer, now):
                return _unknown(signer, bool(endorsements))
        claims = verify(token, ProofClaims)
        if claims is None:
            return WRONG_SIGNATURE
        self._keys = keys
        # Counted back from now, so that a clock that is set moves the start with it.
        started = now - (self._monotonic() - self._began)
        return judge(claims, request, self._settings.pod_uid, started, now) or claims


def _unknown(signer: str, endorsed: bool) -> RequestRejection:
    message = f"The pod did not get key {signer[:8]}… at admission"
    if endorsed:
        return RequestRejection(
            UNKNOWN_KEY,
            f"{message}, and no key of the pod endorses it. If the operator's keys were recreated, recreate the pod.",
        )
    return RequestRejection(
        UNKNOWN_KEY, f"{message}. Send the endorsements that lead from a key of the pod to this key."
    )

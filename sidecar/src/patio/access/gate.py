"""The state behind access control, and the way of one call through it.

Asked by `api.routes.access`: first whether a call is open at all, then whether its head proves enough (`admit`), then,
with the body read, whether that is the body that was signed and the proof is new (`finish`). The one holder of the
keys learnt and of the proofs used; the clock is given to it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from patio.access.config import AccessSettings
from patio.access.keys import Keys, follow
from patio.access.proof import (
    MISSING,
    MISSING_EVERYWHERE,
    NO_KEYS,
    REPLAYED,
    TOO_MANY,
    UNREADABLE,
    WRONG_HOOK,
    WRONG_SIGNATURE,
    Denial,
    Request,
    judge,
    judge_body,
    read,
    verify,
)
from patio.access.replay import Use, UsedProofs
from patio.api.access_protocol import DRAIN_PATH, DRAIN_SCHEME, PROOF, PROOF_SCHEME, UNKNOWN_KEY, ProofClaims
from patio.api.credentials_protocol import HANDSHAKE_PATH
from patio.api.topology_protocol import LEASES_PATH

READS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing, except on `DRAIN_PATH`: a preStop hook can only GET."""


@dataclass(frozen=True, slots=True)
class Hook:
    """The preStop hook of this pod called."""


class Gate:
    """Decides about every call that comes from outside the pod."""

    def __init__(self, settings: AccessSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._clock = clock
        self._started = clock()
        self._keys = Keys(frozenset(settings.keys))
        self._used = UsedProofs()

    def is_open(self, peer: str | None, method: str, path: str) -> bool:
        """Whether a call needs no proof. `peer` is the address of the socket, never of a header."""
        if path == HANDSHAKE_PATH:
            # It gives the pod's token away, to the operator alone: not to another container, not where access is free.
            return False
        if not self._settings.enforced or is_loopback(peer):
            return True
        if path.startswith(LEASES_PATH):
            # Other pods' sidecars lease there, and none of them can sign. It gives no more than the router's own
            # /workers does to all who reach it, and asks for the same key: `topology.server`.
            return True
        return method in READS and path != DRAIN_PATH

    def admit(
        self, request: Request, path: str, authorization: Sequence[str], endorsements: Sequence[str]
    ) -> ProofClaims | Hook | Denial:
        """Judge a call by its head.

        Args:
            request: what came.
            path: its path, decoded.
            authorization: the values of all Authorization headers.
            endorsements: compact JWS of the Endorsements header, oldest first.

        """
        if len(authorization) != 1:
            return UNREADABLE if authorization else self._missing(path)
        scheme, _, shown = authorization[0].partition(" ")
        if scheme.lower() == DRAIN_SCHEME.lower() and path == DRAIN_PATH:
            return Hook() if self._is_hook(shown) else WRONG_HOOK
        if scheme.lower() != PROOF_SCHEME.lower():
            return self._missing(path)
        return self._proven(request, shown, endorsements)

    def finish(self, claims: ProofClaims, body: bytes) -> Denial | None:
        """Judge the body, and take the proof: it is not good again."""
        denial = judge_body(claims, body)
        if denial is None:
            use = self._used.use(claims.jti, self._clock())
            denial = {Use.FIRST: None, Use.AGAIN: REPLAYED, Use.FULL: TOO_MANY}[use]
        return denial

    def _missing(self, path: str) -> Denial:
        if path == HANDSHAKE_PATH:
            return MISSING_EVERYWHERE
        return MISSING if self._settings.keys else NO_KEYS

    def _is_hook(self, shown: str) -> bool:
        digest = hashlib.sha256(shown.encode()).hexdigest()
        return hmac.compare_digest(digest, self._settings.drain_proof_sha256)

    def _proven(self, request: Request, text: str, endorsements: Sequence[str]) -> ProofClaims | Denial:
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
        return judge(claims, request, self._settings.pod_uid, self._started, now) or claims


def is_loopback(peer: str | None) -> bool:
    """Whether an address is that of the pod's own loopback interface."""
    try:
        address = ip_address(peer or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def _unknown(signer: str, endorsed: bool) -> Denial:
    words = f"Key {signer[:8]}… is not one that this pod was given at admission"
    if endorsed:
        return Denial(
            UNKNOWN_KEY,
            f"{words}, and no such key endorses it. If the operator's keys were made anew, recreate the pod.",
        )
    return Denial(UNKNOWN_KEY, f"{words}. Call again with the endorsements that lead to it from such a key.")

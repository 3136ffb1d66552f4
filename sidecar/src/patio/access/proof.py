"""Reads a signed call and judges it: signature, pod, request, time. Pure; `now` is an argument.

`read` comes first and needs no key; then `keys` is asked whether the signer counts; then `verify` checks the signature,
before any claim is read, and `judge` the claims. The body is judged last (`judge_body`), when it has been read: no
caller without a signature makes the sidecar read one. A rejected call gets a `RequestRejection` that says what to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from patio_protocol.authentication import (
    LEEWAY,
    LIFETIME,
    PROOF_MISSING,
    PROOF_SCHEME,
    EndorsementClaims,
    Header,
    ProofClaims,
    body_digest,
    from_base64url,
)

MAX_TOKEN = 16 * 1024

_Claims = TypeVar("_Claims", ProofClaims, EndorsementClaims)


@dataclass(frozen=True, slots=True)
class RequestRejection:
    """Why a call is rejected, and what to do about it."""

    code: str
    message: str
    retryable: bool = False
    status: int = 401


@dataclass(frozen=True, slots=True)
class Token:
    """A compact JWS, taken apart; nothing of it is verified."""

    header: Header
    payload: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """The head of the request that came."""

    method: str
    target: str
    """Path and query, as they were sent."""


def read(text: str) -> Token | None:
    """Take a compact JWS apart; None when it is not one of ours."""
    parts = text.split(".")
    if len(text) > MAX_TOKEN or len(parts) != 3:
        return None
    header, payload, signature = map(from_base64url, parts)
    if header is None or payload is None or signature is None or len(signature) != 64:
        return None
    try:
        return Token(Header.model_validate_json(header), payload, ".".join(parts[:2]).encode(), signature)
    except ValidationError:
        return None


def verify(token: Token, claims: type[_Claims]) -> _Claims | None:
    """Return the claims, if the key that the token names signed it and they can be read."""
    key = from_base64url(token.header.kid)
    if key is None or len(key) != 32:
        return None
    # 1.2 MB of memory and 5 ms, which a sidecar without calls from outside never spends.
    from nacl.bindings import crypto_sign_open
    from nacl.exceptions import BadSignatureError

    try:
        crypto_sign_open(token.signature + token.signed, key)
    except BadSignatureError:
        return None
    try:
        return claims.model_validate_json(token.payload)
    except ValidationError:
        return None


def judge(claims: ProofClaims, request: Request, pod_uid: str, started: float, now: float) -> RequestRejection | None:
    """Say why a proof with these claims is not good for this request, if it is not.

    Args:
        claims: what the operator signed.
        request: what came.
        pod_uid: the pod that this is.
        started: when this sidecar began to remember which proofs were used, in Unix seconds.
        now: Unix seconds.

    """
    if claims.aud != pod_uid:
        return RequestRejection("ProofForAnotherPod", f"The proof is for pod {claims.aud}, and this is pod {pod_uid}.")
    if (claims.method, claims.target) != (request.method, request.target):
        return RequestRejection(
            "ProofForAnotherRequest",
            f"The proof is for {claims.method} {claims.target}, the request is {request.method} {request.target}.",
        )
    if not 0 < claims.exp - claims.iat <= LIFETIME:
        return RequestRejection(
            "ProofInvalid", f"A proof is valid for at most {LIFETIME:g} s. Sign one with an earlier `exp`."
        )
    if claims.iat > now + LEEWAY:
        ahead = claims.iat - now
        return RequestRejection(
            "ProofInvalid", f"The proof was signed {ahead:.0f} s in the future. Correct the clocks of the nodes."
        )
    if claims.exp < now - LEEWAY:
        ago = now - claims.exp
        return RequestRejection(
            "ProofExpired",
            f"The proof expired {ago:.0f} s ago. Sign a new one, and check the clocks of the nodes.",
            True,
        )
    if claims.iat < started:
        return RequestRejection(
            "ProofExpired", "The proof was signed before this sidecar started. Sign a new one.", True
        )
    return None


def judge_body(claims: ProofClaims, body: bytes) -> RequestRejection | None:
    """Say so if the proof is for another body."""
    if body_digest(body) != claims.body:
        return RequestRejection("ProofForAnotherRequest", "The proof is for another body.")
    return None


_FROM_INSIDE = (
    "From inside the pod, or through `kubectl port-forward`, a POST, PUT or DELETE with `Content-Type: "
    "application/json` needs no signature."
)
MISSING = RequestRejection(
    PROOF_MISSING,
    "From outside the pod, this call needs the operator's signature in "
    f"`Authorization: {PROOF_SCHEME} …`. {_FROM_INSIDE}",
)
NO_KEYS = RequestRejection(
    PROOF_MISSING,
    "From outside the pod, this call needs the operator's signature. This sidecar has no key to verify one "
    f"(PATIO_OPERATOR_KEYS). Recreate the pod, so that injection gives it one. {_FROM_INSIDE}",
)
NOT_MEANT = RequestRejection(
    "ProofMissing",
    "From inside the pod, this call needs no proof if it is a POST, PUT or DELETE with `Content-Type: "
    "application/json` to localhost or an address. This call could come from an engine that fetches addresses of its "
    "users, or from a web page.",
)
UNREADABLE = RequestRejection(
    "ProofInvalid", "The Authorization header is not a proof. Sign as docs/concepts/access.md says."
)
MISSING_EVERYWHERE = RequestRejection(
    PROOF_MISSING, "This call needs the operator's signature, also from inside the pod."
)
WRONG_SIGNATURE = RequestRejection("ProofInvalid", "The proof was not signed with the key that it names.")
WRONG_HOOK = RequestRejection("ProofInvalid", "This is not the proof of this pod's preStop hook.")
REPLAYED = RequestRejection("ProofReplayed", "This proof was used before. A proof is valid once: sign a new one.", True)
TOO_MANY = RequestRejection(
    "TooManyProofs", "Too many signed calls arrived in two minutes. Try again later.", True, 429
)
BODY_TOO_LARGE = RequestRejection(
    "BodyTooLarge", "The body exceeds the limit of this route: 1 MiB, or 64 KiB for a lease.", status=413
)

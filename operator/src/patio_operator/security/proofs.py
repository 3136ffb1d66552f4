"""The proof of one request to one pod. Time and identity are arguments."""

from __future__ import annotations

from patio_operator.security.signing_keys import SigningKey
from patio_protocol.authentication import LIFETIME, PROOF, Header, ProofClaims, body_digest


def proof(key: SigningKey, pod_uid: str, method: str, target: str, body: bytes, now: float, jti: str) -> str:
    """Return the proof, good for `LIFETIME` seconds and once.

    Args:
        key: signs it.
        pod_uid: the pod whose sidecar is called.
        method: of the request.
        target: path and query, as they are sent.
        body: of the request; empty when there is none.
        now: Unix seconds.
        jti: random, another one for each proof.

    """
    claims = ProofClaims(
        aud=pod_uid,
        iat=now,
        exp=now + LIFETIME,
        jti=jti,
        method=method,
        target=target,
        body=body_digest(body),
    )
    return key.sign(Header(typ=PROOF, kid=key.public), claims)

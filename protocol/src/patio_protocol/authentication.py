"""Authentication of calls to a sidecar: the claims of a proof, shared by its verifier, its signers and injection.

A proof is a compact JWS (RFC 7515) over one request to one pod; an endorsement is one over the key that follows the
signing one. Both are Ed25519 and nothing else: `alg` is written because the format asks for it and never chooses. Pure
data: signatures are made by the operator and verified by `patio.access`, and no key is ever read here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

OPERATOR_KEYS_VARIABLE = "PATIO_OPERATOR_KEYS"
POD_UID_VARIABLE = "POD_UID"
DRAIN_PROOF_VARIABLE = "PATIO_DRAIN_PROOF_SHA256"
"""SHA-256, in hex, of the one word that the pod's preStop hook proves itself with."""
ACCESS_CONTROL_VARIABLE = "PATIO_ACCESS_CONTROL"

PROOF_SCHEME = "Patio-Proof"
"""`Authorization: Patio-Proof TOKEN`: a signed call."""
DRAIN_SCHEME = "Patio-Drain"
"""`Authorization: Patio-Drain WORD`: a preStop hook, good for `DRAIN_PATH` of one pod."""
ENDORSEMENTS_HEADER = "Patio-Endorsements"
"""Comma list of endorsements, oldest first."""
DRAIN_PATH = "/v1/drain"

PROOF_MISSING = "ProofMissing"
"""Code of the answer to a call that shows no proof, or for which the sidecar was given no key to verify one."""
UNKNOWN_KEY = "UnknownKey"
"""Code of the answer, and `error` of its WWW-Authenticate, that asks for the call again with endorsements."""

LIFETIME = 60.0
"""Seconds that a proof may be good for."""
LEEWAY = 30.0
"""Seconds by which the clocks of two nodes may differ."""
MAX_ENDORSEMENTS = 32
"""How many rotations ago a pod may have been admitted and still follow."""
MAX_BODY = 1024 * 1024
"""Bytes of a signed call's body."""

PROOF: Final = "patio-proof"
ENDORSEMENT: Final = "patio-endorsement"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Header(_Part):
    """The header of either. `typ` keeps one from being taken for the other."""

    alg: Literal["EdDSA"] = "EdDSA"
    typ: Literal["patio-proof", "patio-endorsement"]
    kid: str = Field(max_length=43, description="The public key that made the signature: base64url of 32 bytes.")


class ProofClaims(_Part):
    """What a proof says: this request, to this pod, now, once."""

    aud: str = Field(min_length=1, max_length=128, description="UID of the pod.")
    iat: float = Field(description="Time of the signature, in Unix seconds.")
    exp: float = Field(description=f"Unix seconds; at most {LIFETIME:g} after `iat`.")
    jti: str = Field(min_length=16, max_length=64, description="Random; a sidecar accepts it once.")
    method: str = Field(max_length=16)
    target: str = Field(max_length=8192, description="Path and query of the request, as sent.")
    body: str = Field(max_length=64, description="SHA-256 of the body, in hex.")


class EndorsementClaims(_Part):
    """What an endorsement says: this key replaces the key that signed the endorsement."""

    key: str = Field(max_length=43)
    iat: float


def signing_input(header: Header, claims: ProofClaims | EndorsementClaims) -> str:
    """Return what is signed: header and claims, encoded."""
    return ".".join(base64url(part.model_dump_json().encode()) for part in (header, claims))


def body_digest(body: bytes) -> str:
    """Return the SHA-256 of a body, in hex."""
    return hashlib.sha256(body).hexdigest()


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes | None:
    """Decode; None for whatever `base64url` does not write, so that there is one text for the same bytes."""
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        return None
    return data if base64url(data) == text else None

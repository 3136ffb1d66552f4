"""Signs as an operator does, with every part of a proof open to change."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from nacl.signing import SigningKey

from patio_protocol.authentication import EndorsementClaims, Header, ProofClaims, base64url, body_digest, signing_input

POD = "6d1f4c1e-8a55-4b38-9f0e-2f6f3c1b7d10"
NOW = 1_795_250_000.0
_ids = itertools.count()


class Signer:
    """A key and what it signs. The same number gives the same key."""

    def __init__(self, number: int = 0) -> None:
        self._key = SigningKey(number.to_bytes(32, "big"))
        self.public = base64url(bytes(self._key.verify_key))

    def sign(self, header: Header, claims: ProofClaims | EndorsementClaims) -> str:
        text = signing_input(header, claims)
        return f"{text}.{base64url(self._key.sign(text.encode()).signature)}"

    def proof(self, method: str, target: str, body: bytes = b"", **changes: Any) -> str:
        """A proof for `POD` at `NOW`, unless changed."""
        iat = changes.pop("iat", NOW)
        typ = changes.pop("typ", "patio-proof")
        claims: Mapping[str, Any] = {
            "aud": POD,
            "iat": iat,
            "exp": iat + 60.0,
            "jti": f"test-{next(_ids):020}",
            "method": method,
            "target": target,
            "body": body_digest(body),
        }
        return self.sign(Header(typ=typ, kid=self.public), ProofClaims(**{**claims, **changes}))

    def endorse(self, successor: Signer) -> str:
        header = Header(typ="patio-endorsement", kid=self.public)
        return self.sign(header, EndorsementClaims(key=successor.public, iat=NOW))

"""The operator's signing key, and how one follows another.

A new key is endorsed by the one it replaces, which is then gone: sidecars that were given an old public key at
admission follow the endorsements to the current one. `encode` and `decode` are the form that the Secret has.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from patio_protocol.authentication import (
    ENDORSEMENT,
    MAX_ENDORSEMENTS,
    EndorsementClaims,
    Header,
    ProofClaims,
    base64url,
    signing_input,
)

_LONGEST_ENDORSEMENT = 1024
"""Characters. Ours have about 250; they go into a header."""


@dataclass(frozen=True)
class SigningKey:
    """A private key, and how its public key can be reached from older ones."""

    private: Ed25519PrivateKey = field(repr=False, compare=False)
    made: datetime
    endorsements: tuple[str, ...] = ()
    """Compact JWS, oldest first, the last one over this key."""

    @property
    def public(self) -> str:
        """The public key, as sidecars are given it."""
        return base64url(self.private.public_key().public_bytes_raw())

    def sign(self, header: Header, claims: ProofClaims | EndorsementClaims) -> str:
        """Return a compact JWS."""
        text = signing_input(header, claims)
        return f"{text}.{base64url(self.private.sign(text.encode()))}"


def new_key(now: datetime) -> SigningKey:
    """Make a key that no other endorses."""
    return SigningKey(Ed25519PrivateKey.generate(), now)


def successor(old: SigningKey, now: datetime) -> SigningKey:
    """Make the key that follows another, endorsed by it."""
    new = new_key(now)
    header = Header(typ=ENDORSEMENT, kid=old.public)
    endorsement = old.sign(header, EndorsementClaims(key=new.public, iat=now.timestamp()))
    return SigningKey(new.private, now, (*old.endorsements, endorsement)[-MAX_ENDORSEMENTS:])


def is_due(key: SigningKey, age: timedelta, now: datetime) -> bool:
    """Tell whether a key has reached its age."""
    return now - key.made >= age


def encode(key: SigningKey) -> dict[str, str]:
    """Return the key as the data of a Secret."""
    pem = key.private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    data = {
        "signing.key": pem,
        "endorsements": "\n".join(key.endorsements).encode(),
        "made": key.made.astimezone(UTC).isoformat(timespec="seconds").encode(),
    }
    return {name: base64.b64encode(value).decode() for name, value in data.items()}


def decode(data: Mapping[str, str]) -> SigningKey | None:
    """Read the data of a Secret; None when it is not a whole signing key."""
    try:
        pem, endorsements, made = (
            base64.b64decode(data[name], validate=True) for name in ("signing.key", "endorsements", "made")
        )
        private = serialization.load_pem_private_key(pem, None)
        when = datetime.fromisoformat(made.decode())
        written = endorsements.decode().split()[-MAX_ENDORSEMENTS:]
    except (KeyError, ValueError, TypeError, binascii.Error, UnsupportedAlgorithm):
        return None
    if not isinstance(private, Ed25519PrivateKey) or when.tzinfo is None:
        return None
    chain = (link for link in written if link.isascii() and len(link) <= _LONGEST_ENDORSEMENT)
    return SigningKey(private, when, tuple(chain))

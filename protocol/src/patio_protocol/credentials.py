"""Models by which a sidecar proves which pod it is in, and by which credentials are sealed for it. Pure data.

The operator makes a handshake, which is a signed call: it shows a key of its own, made for this one, and gets the
sidecar's key and the pod's service account token, in a box for both keys. The API server says whether the token is that
of the pod. From then on credentials go into orders sealed for the sidecar's key (`sealed_boxes`), with the order that
they belong to. What the token is for, and where it lies, injection and sidecar agree on here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from patio_protocol.adapters import MAX_SEALED, LoadRequest

HANDSHAKE_PATH = "/v1/credentials/handshake"

TOKEN_AUDIENCE = "patio.dev/sidecar"  # noqa: S105 - the name of what tokens are for
"""Tokens of this audience are good for nothing but to prove to the operator which pod a sidecar is in."""
TOKEN_FOLDER = "/var/run/secrets/patio.dev/sidecar"  # noqa: S105 - a path
TOKEN_NAME = "token"  # noqa: S105 - a file's name
TOKEN_FILE = f"{TOKEN_FOLDER}/{TOKEN_NAME}"
TOKEN_SECONDS = 3600
"""How long a token is good for; the kubelet replaces it before."""
MAX_TOKEN = 16 * 1024
"""Bytes of a token."""

TOKEN_MISSING = "TokenMissing"  # noqa: S105 - a code
"""Code of the answer of a sidecar that was given no token."""
SEALED_FOR_ANOTHER = "SealedForAnother"
"""Code of the answer that asks for another handshake: the sidecar has started since, with a new key."""
SEALED_INVALID = "SealedInvalid"
"""Code of the answer to credentials that cannot be opened, or belong to another order."""

TOKEN_TEXT: Final = "patio-token"  # noqa: S105 - names a kind of text
CREDENTIALS_TEXT: Final = "patio-credentials"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class HandshakeRequest(_Part):
    """`POST /v1/credentials/handshake`: prove which pod you are in."""

    key: str = Field(max_length=43, description="X25519 public key made for this call: base64url of 32 bytes.")


class HandshakeAnswer(BaseModel):
    """The sidecar's key, and its proof."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    key: str = Field(max_length=43, description="The sidecar's X25519 public key; new after each start.")
    proof: str = Field(
        max_length=2 * MAX_TOKEN,
        description="A box (libsodium's crypto_box, nonce first, base64url) from the sidecar's key to the caller's, "
        "with the pod's UID and its service account token.",
    )


class TokenText(_Part):
    """What is in a proof."""

    typ: Literal["patio-token"] = TOKEN_TEXT
    pod: str = Field(max_length=128)
    token: str = Field(max_length=MAX_TOKEN, repr=False)


class CredentialsText(_Part):
    """What is sealed in an order."""

    typ: Literal["patio-credentials"] = CREDENTIALS_TEXT
    pod: str = Field(max_length=128, description="UID of the pod that the credentials are for.")
    order: str = Field(max_length=64, description="`order_digest` of the order that the credentials are for.")
    config: dict[str, str] = Field(repr=False, description="The credentials, to be added to the order's `config`.")


def order_digest(order: LoadRequest) -> str:
    """Return the SHA-256, in hex, of everything that an order says but for what is sealed."""
    fields = order.model_dump(mode="json", exclude_unset=True, exclude_none=True, exclude={"sealed_credentials"})
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def sealed_field(key: str, sealed: str) -> str:
    """Return what an order has in `sealed_credentials`: for which key, and the text."""
    text = f"{key}.{sealed}"
    if len(text) > MAX_SEALED:
        raise ValueError(f"the credentials are longer than {MAX_SEALED} characters")
    return text

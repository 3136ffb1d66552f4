"""Texts that one key alone can open, for what must not be readable on the way between operator and sidecar. Pure.

X25519 with XSalsa20-Poly1305 (libsodium's `crypto_box`), used by both ends, so that there is one form. A `box` is made
with two keys: the one who opens it knows that the holder of the other key made it. A `sealed` text is made for one key
by anybody: its maker's key is new each time and gone at once. Texts are base64url. A text that is not whole, or is for
another key, opens to None and never raises. Keys live in memory only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from patio_protocol.authentication import base64url, from_base64url

KEY_BYTES = 32
_NONCE_BYTES = 24

# PyNaCl is imported where it is used: 1.2 MB and 5 ms, which a sidecar that gets no credentials never spends.


@dataclass(frozen=True, slots=True)
class BoxKey:
    """A private key, and the public one that others make boxes for."""

    private: bytes = field(repr=False, compare=False)
    public: str
    """Base64url of 32 bytes."""


def new_key() -> BoxKey:
    """Make a key."""
    from nacl.bindings import crypto_box_keypair

    public, private = crypto_box_keypair()
    return BoxKey(private, base64url(public))


def is_public_key(text: str) -> bool:
    """Tell whether a text has the form of a public key."""
    return len(from_base64url(text) or b"") == KEY_BYTES


def box(text: bytes, own_key: BoxKey, public_key: str) -> str | None:
    """Return a text that the holder of `public_key` can open; None when that key is not usable."""
    from nacl.bindings import crypto_box_easy, randombytes

    nonce = randombytes(_NONCE_BYTES)
    made = _none_if_invalid(lambda: crypto_box_easy(text, nonce, from_base64url(public_key) or b"", own_key.private))
    return None if made is None else base64url(nonce + made)


def open_box(shut: str, own_key: BoxKey, public_key: str) -> bytes | None:
    """Open what the holder of `public_key` made for `own_key`."""
    from nacl.bindings import crypto_box_open_easy

    data = from_base64url(shut) or b""
    nonce, text = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
    return _none_if_invalid(
        lambda: crypto_box_open_easy(text, nonce, from_base64url(public_key) or b"", own_key.private)
    )


def seal(text: bytes, public_key: str) -> str | None:
    """Return a text that the holder of `public_key` can open, without a sender; None when the key is not usable."""
    from nacl.bindings import crypto_box_seal

    made = _none_if_invalid(lambda: crypto_box_seal(text, from_base64url(public_key) or b""))
    return None if made is None else base64url(made)


def open_sealed(shut: str, own_key: BoxKey) -> bytes | None:
    """Open what was sealed for `own_key`."""
    from nacl.bindings import crypto_box_seal_open

    data = from_base64url(shut) or b""
    public = from_base64url(own_key.public) or b""
    return _none_if_invalid(lambda: crypto_box_seal_open(data, public, own_key.private))


def _none_if_invalid(work: Callable[[], bytes]) -> bytes | None:
    from nacl.exceptions import CryptoError

    try:
        return work()
    except (CryptoError, ValueError, TypeError):  # PyNaCl has classes of its own below all of them
        return None

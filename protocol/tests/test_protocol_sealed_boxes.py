"""Sealed boxes open for their key alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_protocol.sealed_boxes import BoxKey, box, is_public_key, new_key, open_box, open_sealed, seal

NO_KEYS = ["", "short", "A" * 43, "A" * 42 + "!", "\u00e9" * 43, "_" * 43]
"""The third is the point of order one: all that is boxed for it can be read by everybody."""


@pytest.mark.parametrize("text", NO_KEYS)
def test_what_is_no_usable_key_opens_and_makes_nothing(text: str) -> None:
    key = new_key()
    assert (text == "A" * 43) is is_public_key(text)
    assert box(b"x", key, text) is None
    assert open_box("x" * 100, key, text) is None
    assert seal(b"x", text) is None


@given(st.binary(max_size=300), st.text(max_size=300))
def test_boxes_open_to_what_was_put_in_and_to_nothing_else(text: bytes, noise: str) -> None:
    sender, recipient = new_key(), new_key()
    boxed = box(text, sender, recipient.public) or ""
    assert open_box(boxed, recipient, sender.public) == text
    assert open_box(boxed, sender, sender.public) is None
    sealed = seal(text, recipient.public) or ""
    assert open_sealed(sealed, recipient) == text
    assert open_sealed(sealed, sender) is None
    for not_sealed in (noise, boxed):
        assert open_sealed(not_sealed, recipient) is None
    assert open_box(noise, recipient, sender.public) is None


def test_private_key_is_not_shown() -> None:
    key = new_key()
    assert isinstance(key, BoxKey)
    assert repr(key.private) not in repr(key)

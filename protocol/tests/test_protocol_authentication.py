"""Texts that are signed: one form for one value."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patio_protocol.authentication import base64url, from_base64url


@given(st.binary(max_size=80))
def test_same_bytes_have_one_text(data: bytes) -> None:
    text = base64url(data)
    assert from_base64url(text) == data
    if text:
        last = "B" if text[-1] == "A" else "A"
        assert from_base64url(text[:-1] + last) != data
        assert from_base64url(text + "=") is None

"""Lengths of time as users write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from patio_api.durations import length_of


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("10m", timedelta(minutes=10)),
        ("1h30m", timedelta(hours=1.5)),
        ("90s", timedelta(seconds=90)),
        ("0s", timedelta()),
    ],
)
def test_length_is_read(text: str, length: timedelta) -> None:
    assert length_of(text) == length


@pytest.mark.parametrize("text", ["", "10", "m", "1d", "-5m", "5m1h", "1.5h", " 5m", "9999999s", "5m\n"])
def test_what_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a length of time"):
        length_of(text)

"""JSON of others: a value or a ValueError, whatever it is."""

from __future__ import annotations

import pytest

from patio.bounded_json import read_json


@pytest.mark.parametrize("text", ['{"a": [1]}', b'{"a": [1]}'])
def test_text_within_the_limit_is_read(text: str | bytes) -> None:
    assert read_json(text, len(text)) == {"a": [1]}


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a":' * 100_000, "", "nothing", "1" * 5000, b"\xff\xfe", b'"\xff"', b"\x00", '{"a": [1]} x'],
)
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of any words
        read_json(text, 10**7)


def test_text_past_the_limit_is_a_value_error() -> None:
    assert read_json("[1]", 3) == [1]
    with pytest.raises(ValueError, match="longer"):
        read_json("[12]", 3)

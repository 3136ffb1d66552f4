"""JSON of others, at its limits and past them."""

from __future__ import annotations

import pytest

from patio_api.bounded_json import DEEPEST, LONGEST, read_json, read_object, size_of
from patio_testing.unreadable_json import UNREADABLE, nested


@pytest.mark.parametrize("text", [*UNREADABLE, None, 5, b"{}", '{"a": Infinity}', '{"\\udfff": 1}'])
def test_what_cannot_be_read_is_nothing(text: object) -> None:
    assert read_json(text) is None
    assert read_object(text) == {}


def test_depth_has_a_limit() -> None:
    assert read_json(nested(DEEPEST)) is not None
    assert read_json(nested(DEEPEST + 2)) is None


def test_length_has_a_limit() -> None:
    assert read_json('"' + "a" * (LONGEST - 2) + '"') is not None
    assert read_json('"' + "a" * (LONGEST - 1) + '"') is None
    assert read_json("[1]", limit=2) is None


def test_value_that_is_no_object_is_an_empty_one() -> None:
    assert read_object("[]") == {}
    assert read_object('{"a": "é"}') == {"a": "é"}


def test_size_counts_values_up_to_a_depth() -> None:
    assert size_of({"a": [1, 2], "b": "x"}) == 5
    assert size_of([[[]]], deepest=1) is None

"""Numbers, durations and names in sentences."""

from __future__ import annotations

from datetime import timedelta

import pytest

from patio_operator.modelendpoints.autoscaler.wording import counted, in_words, names_in_words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (45.9, "45 s"),
        (60, "1 min"),
        (90, "90 s"),
        (309, "5 min 9 s"),
        (600, "10 min"),
        (615, "10 min"),
        (3600, "1 h"),
        (5400, "1 h 30 min"),
        (90000, "25 h"),
    ],
)
def test_duration_has_at_most_two_units(seconds: float, text: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(("count", "text"), [(0, "no worker"), (1, "1 worker"), (2, "2 workers")])
def test_number_has_its_noun(count: int, text: str) -> None:
    assert counted(count, "worker") == text


@pytest.mark.parametrize(
    ("names", "text"),
    [("a", "a"), ("ab", "a and b"), ("abc", "a, b and c"), ("abcdefg", "a, b, c and 4 more")],
)
def test_names_beyond_three_are_counted(names: str, text: str) -> None:
    assert names_in_words(list(names)) == text

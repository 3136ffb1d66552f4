"""Which of several objects has the name that they claim."""

from __future__ import annotations

from datetime import UTC, datetime

from patio_api.precedence import precedence

EARLY, LATE = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)


def test_older_object_goes_first_whatever_its_name() -> None:
    assert precedence(EARLY, "z/z") < precedence(LATE, "a/a")


def test_objects_of_one_moment_go_by_their_keys() -> None:
    assert precedence(EARLY, "a/b") < precedence(EARLY, "b/a")


def test_object_without_a_time_of_creation_goes_last() -> None:
    assert precedence(LATE, "z/z") < precedence(None, "a/a")

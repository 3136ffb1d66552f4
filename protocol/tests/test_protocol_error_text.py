"""Text of others is bounded, fit to be shown, and without what nobody may see."""

from __future__ import annotations

from patio_protocol.error_text import LONGEST_TEXT, bounded_text, causes, is_fit


def test_text_of_others_is_bounded_and_valid() -> None:
    assert bounded_text("rank 64") == "rank 64"
    bounded = bounded_text("x" * 5_000_000)
    assert len(bounded) < LONGEST_TEXT + 40
    assert bounded.endswith("... (4998000 characters more)")
    assert bounded_text("a\x1b[31m\ud800\x00\r\n\té") == "a?[31m???\n\té"
    assert is_fit("bücher\n")
    assert not is_fit("a\ud800")


def test_errors_that_go_round_in_circles_are_walked_once() -> None:
    error, context = ValueError("1"), ValueError("2")
    error.__context__, context.__context__ = context, error
    assert causes(error) == [error, context]

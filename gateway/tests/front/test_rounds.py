"""How often a request came back."""

from __future__ import annotations

from patio_gateway.front.rounds import MOST_ROUNDS, Round, Rounds, delay


def test_request_that_comes_back_keeps_when_it_came_first() -> None:
    rounds = Rounds()
    assert rounds.begin(("a", "r"), 1.0, longest=300.0) == Round(0, 1.0)
    assert rounds.begin(("a", "r"), 2.0, longest=300.0) == Round(1, 1.0)
    assert rounds.begin(("b", "r"), 3.0, longest=300.0) == Round(0, 3.0)


def test_answered_request_is_forgotten() -> None:
    rounds = Rounds()
    rounds.begin(("a", "r"), 1.0, longest=300.0)
    rounds.end(("a", "r"))
    assert rounds.begin(("a", "r"), 2.0, longest=300.0).number == 0


def test_id_that_is_used_again_much_later_is_a_new_request() -> None:
    rounds = Rounds()
    rounds.begin(("a", "r"), 1.0, longest=300.0)
    assert rounds.begin(("a", "r"), 302.0, longest=300.0) == Round(0, 302.0)


def test_oldest_request_is_forgotten_when_there_are_too_many() -> None:
    rounds = Rounds(most=2)
    for number in range(3):
        rounds.begin(("a", str(number)), 1.0, longest=300.0)
    assert rounds.begin(("a", "0"), 2.0, longest=300.0).number == 0
    assert rounds.begin(("a", "2"), 2.0, longest=300.0).number == 1


def test_last_word_comes_before_envoy_passes_the_redirect_on() -> None:
    assert MOST_ROUNDS < 10
    assert [delay(number) for number in (1, 2, 3)] == [0.05, 0.1, 0.2]

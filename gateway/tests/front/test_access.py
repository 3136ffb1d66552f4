"""Whom the list of models shows what: the same as Envoy lets them use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.control import program
from patio_gateway.front.access import may_use
from patio_gateway.snapshot import Client

PARTS = st.text("ab*?[]-/", max_size=5)


@given(PARTS, PARTS, PARTS)
def test_list_and_envoy_agree_on_every_pattern(pattern: str, namespace: str, name: str) -> None:
    client = Client("a", "sk-a", endpoints=(pattern,))
    endpoint = f"{namespace}/{name}"
    assert may_use(client, endpoint) == program.may_use(client, endpoint)


def test_star_matches_within_one_part() -> None:
    assert may_use(Client("a", "k", endpoints=("team/*",)), "team/m")
    assert not may_use(Client("a", "k", endpoints=("team/*",)), "other/m")
    assert may_use(Client("a", "k"), "any/thing")
    assert not may_use(Client("a", "k", endpoints=()), "any/thing")

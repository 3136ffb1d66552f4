"""Which models a client may use."""

from __future__ import annotations

import pytest

from patio_gateway.rights import may_use
from patio_gateway.snapshot import Client


@pytest.mark.parametrize(
    ("patterns", "endpoint", "may"),
    [
        (("*",), "a/m", True),
        (("a/m",), "a/m", True),
        (("a/*",), "a/m", True),
        (("*/m",), "a/m", True),
        (("a/m-*",), "a/m-1", True),
        (("a/*",), "b/m", False),
        (("a*",), "a/m", False),
        (("a/m",), "a/m2", False),
        (("a/?",), "a/m", False),
        (("a/[m]",), "a/m", False),
        ((), "a/m", False),
        (("b/m", "a/m"), "a/m", True),
        (("static/*",), "static/Qwen/Qwen3", True),
    ],
)
def test_pattern_matches_within_a_part_of_the_name(patterns: tuple[str, ...], endpoint: str, may: bool) -> None:
    assert may_use(Client("c", "sk-0123456789", endpoints=patterns), endpoint) is may

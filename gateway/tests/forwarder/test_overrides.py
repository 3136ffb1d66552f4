"""`--set KEY.PATH=VALUE`: what an option is read as, and where it ends up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.forwarder.overrides import (
    MOST_DEPTH,
    MOST_LENGTH,
    Override,
    OverrideError,
    overridden,
    parse_override,
)

KEY = st.text(st.characters(codec="utf-8", exclude_characters=".="), min_size=1, max_size=12)
PATH = st.lists(KEY, min_size=1, max_size=MOST_DEPTH).map(tuple)
TREE = st.recursive(st.integers() | st.text(), lambda inner: st.dictionaries(KEY, inner, max_size=4), max_leaves=12)
CONTENT = st.dictionaries(KEY, TREE, max_size=4)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("forwarder.max_concurrency=20", ("forwarder", "max_concurrency"), 20),
        (
            "forwarder.sync.extra_routes=['/v1/chat/completions','/v1/completions']",
            ("forwarder", "sync", "extra_routes"),
            ["/v1/chat/completions", "/v1/completions"],
        ),
        ("forwarder.sync.healthcheck_route=/health", ("forwarder", "sync", "healthcheck_route"), "/health"),
        ("a=/x?b=c", ("a",), "/x?b=c"),
        ("a=null", ("a",), None),
        ("a=", ("a",), ""),
        ("a=-5", ("a",), "-5"),
        ("a=false", ("a",), "false"),
        ("a=²", ("a",), "²"),
        ("a=[1", ("a",), "[1"),
        ("a=" + "9" * 19, ("a",), "9" * 19),
    ],
)
def test_option_is_read_as_upstream_reads_it(text: str, path: tuple[str, ...], value: object) -> None:
    assert parse_override(text) == Override(path, value)


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "=1", "a..b=1", ".a=1", "a.=1", "a=['x]", "a=[x]", "a=[__import__('os')]", "a=[1]+[2]"),
        *(f"a=[{'(' * 9999}]", f"a={'x' * MOST_LENGTH}", ".".join("a" * (MOST_DEPTH + 1)) + "=1", "a\n\x1b[0m"),
    ],
)
def test_option_that_cannot_be_read_is_an_error_on_one_line(text: str) -> None:
    with pytest.raises(OverrideError) as caught:
        parse_override(text)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@given(PATH, st.integers(0, 10**17))
def test_number_at_any_path_is_read_back(path: tuple[str, ...], number: int) -> None:
    assert parse_override(f"{'.'.join(path)}={number}") == Override(path, number)


@given(PATH, st.lists(st.text(max_size=20), max_size=5))
def test_list_of_any_texts_is_read_back(path: tuple[str, ...], values: list[str]) -> None:
    assert parse_override(f"{'.'.join(path)}={values!r}") == Override(path, values)


@given(st.text(max_size=200))
def test_any_text_is_an_option_or_an_error_on_one_line(text: str) -> None:
    message = "a value"
    try:
        parse_override(text)
    except OverrideError as error:
        message = str(error)
    assert message.isprintable()


def leads(content: object, path: tuple[str, ...]) -> bool:
    """Return whether a path leads through fields alone, those that are absent included."""
    for key in path:
        if not isinstance(content, dict):
            return False
        content = content.get(key, {})
    return True


@given(CONTENT, PATH, st.integers())
def test_value_is_at_its_path_and_all_else_as_before(
    content: dict[str, object], path: tuple[str, ...], value: int
) -> None:
    before = repr(content)
    result: object = overridden(content, [Override(path, value)]) if leads(content, path) else None
    assert repr(content) == before
    if result is None:
        with pytest.raises(OverrideError, match="has no fields"):
            overridden(content, [Override(path, value)])
        return
    old: object = content
    for key in path:
        assert isinstance(result, dict)
        others = old if isinstance(old, dict) else {}
        assert {name: each for name, each in result.items() if name != key} == {
            name: each for name, each in others.items() if name != key
        }
        result, old = result[key], others.get(key)
    assert result == value


@given(CONTENT, KEY, st.integers(), st.integers())
def test_last_of_two_options_for_a_path_counts(content: dict[str, object], key: str, first: int, second: int) -> None:
    both = overridden(content, [Override((key,), first), Override((key,), second)])
    assert both == overridden(content, [Override((key,), second)])

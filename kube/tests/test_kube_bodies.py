"""Answers of the API server, item by item, and objects that are nested too deeply."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_kube.bodies import Items, TooDeep, cut, mended, read_event, read_object

DEEP = "[" * 5000 + "]" * 5000
OBJECT = f'{{"kind": "K", "metadata": {{"name": "x"}}, "spec": {DEEP}}}'

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=3), values, max_size=3)


def test_object_nested_too_deeply_is_its_metadata() -> None:
    body = read_object(OBJECT)
    assert isinstance(body, TooDeep)
    assert body == {"kind": "K", "metadata": {"name": "x"}}


def test_one_such_item_leaves_the_others() -> None:
    items = Items(f'{{"metadata": {{"resourceVersion": "5"}}, "items": [{{"a": 1}}, {OBJECT}, {{"b": [2]}}]}}', "items")
    first, second, third = items
    assert (first, third) == ({"a": 1}, {"b": [2]})
    assert isinstance(second, TooDeep)
    assert items.rest == {"metadata": {"resourceVersion": "5"}}


def test_event_has_what_is_left_of_its_object() -> None:
    event = read_event(f'{{"type": "ADDED", "object": {OBJECT}}}')
    assert isinstance(event["object"], TooDeep)
    assert event["object"]["metadata"]["name"] == "x"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"items": [{}', '{"items": [{} {}]}', '{"items": [1]}', "null", DEEP])
def test_what_is_no_list_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        list(Items(text, "items"))


@pytest.mark.parametrize("text", ["", "{", '{"type": "ADDED"}', '{"object": {}}', "[]", DEEP])
def test_what_is_no_event_is_an_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever it says
        read_event(text)


@given(st.lists(objects, max_size=4), objects, st.sampled_from([None, 2]))
def test_items_are_what_a_parser_makes_of_them(
    items: list[object], beside: dict[str, object], indent: int | None
) -> None:
    beside.pop("items", None)
    read = Items(json.dumps({**beside, "items": items}, indent=indent), "items")
    assert list(read) == items
    assert read.rest == beside


@given(values, st.integers(0, 4))
def test_what_is_cut_comes_back(value: object, deepest: int) -> None:
    text = json.dumps(value)
    shallow, parts = cut(text, "mark", deepest)
    assert mended(json.dumps(json.loads(shallow)), "mark", parts) == text
    inside = mended(json.dumps({"annotation": shallow}), "mark", parts)
    assert json.loads(json.loads(inside)["annotation"]) == value

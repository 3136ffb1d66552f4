"""Bodies that start a worker, and bodies that no engine takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio_gateway.front.checks import MOST_BYTES, TYPES, model_in, problem

USER = [{"role": "user", "content": "Hello"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def found(path: str, body: Any, content_type: str = "application/json") -> str | None:
    """Return the field that a body is refused for; "" if it is refused as a whole."""
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    wrong = problem(f"/v1/{path}", content_type, text)
    return None if wrong is None else wrong[1] or ""


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"model": "m", "messages": USER}),
        # The header x-patio-model names the model.
        ("chat/completions", {"messages": USER}),
        ("chat/completions", {"messages": USER, "temperature": 0.7, "stop": ["a"] * 9, "n": 500, "stream": None}),
        # vLLM's own fields, roles and parts.
        ("chat/completions", {"messages": USER, "top_k": 5, "guided_json": {"type": "object"}, "min_p": 0.1}),
        ("chat/completions", {"messages": [{"role": "critic", "content": [{"type": "video_url"}, "text", {"a": 1}]}]}),
        ("chat/completions", {"messages": [{"role": "assistant", "tool_calls": [], "reasoning": "..."}]}),
        ("chat/completions", {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}),
        ("chat/completions", {"messages": USER, "tool_choice": "required", "response_format": {"type": "regex"}}),
        ("chat/completions", {"messages": USER, "stream_options": {"include_usage": True, "continuous": True}}),
        ("completions", {"model": "m", "prompt": "Hello"}),
        ("completions", {"model": "m", "prompt": [1, 2, 3]}),
        ("completions", {"model": "m", "prompt": [[1, 2], [3]]}),
        ("completions", {"model": "m", "prompt": ["a", "b"]}),
        ("completions", {"model": "m", "prompt_embeds": "AAAA"}),
        ("completions", {"model": "m", "prompt": None, "prompt_embeds": "AAAA"}),
        ("embeddings", {"model": "m", "input": "Hello"}),
        ("embeddings", {"model": "m", "input": [[1, 2]]}),
        ("embeddings", {"model": "m", "messages": USER}),
        ("responses", {"model": "m", "input": "Hello"}),
        ("responses", {"model": "m", "input": [{"role": "user", "content": "Hello"}]}),
        ("rerank", {"anything": 1}),
        ("rerank", b"{"),
    ],
)
def test_body_that_an_engine_may_take_passes(path: str, body: Any) -> None:
    assert found(path, body) is None


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("chat/completions", b"", ""),
        ("chat/completions", b"[]", ""),
        ("chat/completions", b'{"messages": [', ""),
        ("chat/completions", b"\xff\xfe", ""),
        ("chat/completions", b'{"a":' * 200_000, ""),
        ("chat/completions", {"model": "m"}, "messages"),
        ("chat/completions", {"model": "m", "messages": []}, "messages"),
        ("chat/completions", {"model": "m", "messages": "Hello"}, "messages"),
        ("chat/completions", {"model": "m", "messages": [{"content": "Hello"}]}, "messages"),
        ("chat/completions", {"model": "m", "messages": USER, "temperature": "hot"}, "temperature"),
        ("chat/completions", {"model": "m", "messages": USER, "max_tokens": "many"}, "max_tokens"),
        ("chat/completions", {"model": "m", "messages": USER, "stream": "perhaps"}, "stream"),
        ("chat/completions", {"model": 5, "messages": USER}, "model"),
        ("completions", {"model": "m"}, "prompt"),
        ("completions", {"model": "m", "prompt": {"text": "Hello"}}, "prompt"),
        ("embeddings", {"model": "m"}, "input"),
        ("embeddings", {"model": "m", "input": 5}, "input"),
        ("responses", {"model": "m", "input": 5}, "input"),
    ],
)
def test_body_that_no_engine_takes_is_found(path: str, body: Any, field: str) -> None:
    assert found(path, body) == field


def test_form_and_long_body_are_not_looked_at() -> None:
    assert found("completions", b"--x\r\n", "multipart/form-data; boundary=x") is None
    assert found("completions", b"{" + b" " * MOST_BYTES) is None
    assert found("completions", b"{" + b" " * (MOST_BYTES - 1)) == ""


@given(st.sampled_from(sorted(TYPES)), st.dictionaries(st.text(max_size=8), JSON, max_size=6))
def test_unknown_fields_never_matter(path: str, more: dict[str, Any]) -> None:
    known = {"model": "m", "messages": USER, "prompt": "Hello", "input": "Hello"}
    extra = {f"x_{name}": value for name, value in more.items()}
    body = {**extra, **known} if path != "responses" else {**extra, "model": "m", "input": "Hello"}
    assert found(path, body) is None


@given(st.sampled_from(sorted(TYPES)), JSON)
def test_any_json_is_answered(path: str, body: Any) -> None:
    wrong = problem(f"/v1/{path}", "", json.dumps(body).encode())
    if wrong is not None:
        assert len(wrong[0]) < 1000
        wrong[0].encode()


@given(st.binary(max_size=200))
def test_any_bytes_are_answered(body: bytes) -> None:
    assert problem("/v1/completions", "", body) is not None
    model_in(body).encode()


def test_model_is_read_from_a_body() -> None:
    assert model_in(b'{"model": "m"}') == "m"
    assert model_in(b'{"model": 5}') == ""
    assert model_in(b"[]") == ""
    assert model_in(b"") == ""
    assert model_in(b'{"model": "\\udcff"}') == "?"

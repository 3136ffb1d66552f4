"""The three forms of arguments, on both backends, with the engines' own tables of options."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.arguments import (
    Kind,
    OptionTable,
    is_option,
    mask_command,
    normalize_server_args,
    review,
    values_of,
)
from inference_server.options import options_of


def table(engine: str) -> OptionTable:
    found = options_of(engine)
    assert found is not None
    return found


VLLM, SGLANG = table("vllm"), table("sglang")
OPTIONS = [(engine, name, kind) for engine in (VLLM, SGLANG) for name, kind in engine.kinds.items()]


class Color(Enum):
    RED = "red"


FORMS: list[tuple[Any, list[str]]] = [
    (None, []),
    ([], []),
    ({}, []),
    (["--dtype", "half", "--enforce-eager"], ["--dtype", "half", "--enforce-eager"]),
    (["--max-model-len", 8192], ["--max-model-len", "8192"]),
    (["--enforce-eager", {"max_model_len": 8192}], ["--enforce-eager", "--max-model-len", "8192"]),
    ("--dtype half --enforce-eager", ["--dtype", "half", "--enforce-eager"]),
    ({"--dtype": "half"}, ["--dtype", "half"]),
    ({"dtype": "half"}, ["--dtype", "half"]),
    ({"gpu_memory_utilization": 0.9}, ["--gpu-memory-utilization", "0.9"]),
    ({"-tp": 2}, ["-tp", "2"]),
    ({"trust-remote-code": True}, ["--trust-remote-code"]),
    ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
    ({"no-enable-prefix-caching": False}, ["--enable-prefix-caching"]),
    ({"dtype": None}, []),
    ({"chat-template": ""}, ["--chat-template", ""]),
    ({"kv-cache-dtype": {"auto": "fp8"}}, ["--kv-cache-dtype", '{"auto": "fp8"}']),
    ({"compilation_config.cudagraph_mode": "NONE"}, ["--compilation-config.cudagraph_mode", "NONE"]),
    ({"model-impl": Color.RED}, ["--model-impl", "red"]),
    ({"download-dir": Path("/models")}, ["--download-dir", "/models"]),
    ({"swap-space": Decimal("4.5")}, ["--swap-space", "4.5"]),
    ({"--tensor-parallel-size": "4", "tensor-parallel-size": "4"}, ["--tensor-parallel-size", "4"]),
    (
        {"--tensor-parallel-size": "2", "tensor-parallel-size": "4"},
        ["--tensor-parallel-size", "2", "--tensor-parallel-size", "4"],
    ),
]


@pytest.mark.parametrize(("given_arguments", "words"), FORMS)
def test_each_form_becomes_words(given_arguments: Any, words: list[str]) -> None:
    assert normalize_server_args(given_arguments) == words
    assert normalize_server_args(given_arguments, VLLM) == words


@pytest.mark.parametrize(
    ("options", "words"),
    [(None, ["--lora-modules", '["a=/x", "b=/y"]']), (VLLM, ["--lora-modules", "a=/x", "b=/y"])],
)
def test_list_is_several_words_where_the_option_takes_them(options: OptionTable | None, words: list[str]) -> None:
    assert normalize_server_args({"lora-modules": ["a=/x", "b=/y"]}, options) == words


def test_false_leaves_out_a_flag_without_a_no_form() -> None:
    assert normalize_server_args({"trust-remote-code": False}, SGLANG) == []
    assert normalize_server_args({"trust-remote-code": False}, VLLM) == ["--no-trust-remote-code"]
    assert normalize_server_args({"disable_log_stats": False}, VLLM) == []


def parser_of(options: OptionTable) -> argparse.ArgumentParser:
    """A parser with the options of an engine, as the tables say."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    for name, kind in options.kinds.items():
        if name in ("--help", "-h") or (kind is Kind.BOOLEAN and name.startswith("--no-")):
            continue
        if kind is Kind.BOOLEAN and name.startswith("--"):
            parser.add_argument(name, dest=name, action=argparse.BooleanOptionalAction)
        elif kind in (Kind.FLAG, Kind.BOOLEAN):
            parser.add_argument(name, dest=name, action="store_true", default=None)
        else:
            nargs = {Kind.LIST: "+", Kind.OPTIONAL: "?"}.get(kind)
            parser.add_argument(name, dest=name, nargs=nargs)
    return parser


PARSERS = {"vllm": parser_of(VLLM), "sglang": parser_of(SGLANG)}
VALUES: Mapping[Kind, tuple[Any, Any]] = {
    Kind.FLAG: (True, True),
    Kind.BOOLEAN: (False, False),
    Kind.VALUE: (7, "7"),
    Kind.OPTIONAL: ("x", "x"),
    Kind.LIST: (["a", 2], ["a", "2"]),
    Kind.JSON: ({"a": [1]}, '{"a": [1]}'),
}


@pytest.mark.parametrize("engine", [VLLM, SGLANG], ids=["vllm", "sglang"])
@pytest.mark.parametrize("form", ["dashes", "bare", "underscores", "list"])
def test_every_option_of_the_engine_arrives_in_each_form(engine: OptionTable, form: str) -> None:
    """The engine's parser, made of its table, gets each option as it was meant."""
    tried = 0
    for name, kind in engine.kinds.items():
        if not name.startswith("--") or name.startswith("--no-") or name == "--help":
            continue
        value, parsed = VALUES[kind]
        key = {"dashes": name, "bare": name[2:], "underscores": name[2:].replace("-", "_"), "list": name}[form]
        arguments: Any = {key: value}
        if form == "list":
            arguments = normalize_server_args(arguments, engine)
        words = normalize_server_args(arguments, engine)
        assert vars(PARSERS[engine.engine].parse_args(words))[name] == parsed, (name, words)
        assert review(words, engine).findings == ()
        tried += 1
    assert tried > 250


SCALARS = st.one_of(st.integers(0, 10**9), st.text('abcXYZ/._{}" =', max_size=12), st.floats(0, 1), st.none())


@given(st.dictionaries(st.sampled_from([name for _, name, kind in OPTIONS if kind is Kind.VALUE]), SCALARS))
def test_dictionary_and_list_of_its_words_are_the_same(arguments: dict[str, Any]) -> None:
    words = normalize_server_args(arguments)
    assert normalize_server_args(words) == words
    assert all(isinstance(word, str) for word in words)
    assert len(words) == 2 * sum(value is not None for value in arguments.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, min_size=1))
def test_dictionary_value_is_read_back_as_it_was(value: dict[str, Any]) -> None:
    _, text = normalize_server_args({"hf-overrides": value}, VLLM)
    assert json.loads(text) == value


@given(st.text())
def test_every_text_is_one_word_of_the_command(value: str) -> None:
    """No shell reads the command, so nothing in a value can become a word or an option of its own."""
    assert normalize_server_args({"chat-template": value}) == ["--chat-template", value]


@given(st.lists(st.text("-abc=.01_", max_size=8)))
def test_review_passes_what_is_no_option(words: list[str]) -> None:
    result = review(words, VLLM, removed="pass")
    assert list(result.words) == words


def test_unknown_option_has_its_nearest_match() -> None:
    (finding,) = review(["--max-modell-len", "8192"], VLLM).unknown
    assert finding.option == "--max-modell-len"
    assert "--max-model-len" in finding.hint


def test_removed_option_is_translated_with_a_reason() -> None:
    result = review(["--disable-log-requests", "--enforce-eager"], VLLM)
    assert result.words == ("--enforce-eager",)
    assert [finding.problem for finding in result.findings] == ["retired"]
    assert "0.10.1" in result.findings[0].hint


@pytest.mark.parametrize(("removed", "problems"), [("error", ["unknown"]), ("pass", [])])
def test_removed_option_stays_if_asked(removed: str, problems: list[str]) -> None:
    result = review(["--disable-log-requests"], VLLM, removed=removed)
    assert result.words == ("--disable-log-requests",)
    assert [finding.problem for finding in result.findings] == problems


def test_option_that_sglang_never_had_names_the_one_meant() -> None:
    (finding,) = review(["--mem-fraction-reserved", "0.1"], SGLANG).unknown
    assert "--mem-fraction-static" in finding.hint


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        (VLLM, ["--max_model_len", "8"]),
        (VLLM, ["--max-model-len=8"]),
        (VLLM, ["--tensor-parallel", "2"]),
        (VLLM, ["-O3", "-tp", "2"]),
        (VLLM, ["--compilation-config.cudagraph_mode", "NONE"]),
        (VLLM, ["--seed", "-1"]),
        (SGLANG, ["--tp", "4"]),
        (SGLANG, ["--context-length", "8192", "--mem-fraction-static", "0.9"]),
    ],
)
def test_spellings_that_the_engine_takes_are_known(engine: OptionTable, words: list[str]) -> None:
    assert review(words, engine).findings == ()


def test_underscores_are_an_error_for_sglang() -> None:
    assert [finding.option for finding in review(["--context_length", "8"], SGLANG).unknown] == ["--context_length"]


def test_option_given_twice_is_reported() -> None:
    (finding,) = review(["--seed", "1", "--seed", "2"], VLLM).findings
    assert finding.problem == "duplicate"


@pytest.mark.parametrize(
    ("word", "expected"), [("--x", True), ("-tp", True), ("-1", False), ("-.5", False), ("x", False)]
)
def test_negative_number_is_a_value(word: str, expected: bool) -> None:
    assert is_option(word) is expected


def test_values_are_read_in_both_forms() -> None:
    words = ["--served-model-name", "a", "b", "--api_key=k", "--served_model_name", "c"]
    assert values_of(words, "--served-model-name") == ["c"]
    assert values_of(words[:4], "--served-model-name") == ["a", "b"]
    assert values_of(words, "--api-key") == ["k"]
    assert values_of(words, "--port") == []


@given(st.text(min_size=1).filter(lambda text: not is_option(text)))
def test_secret_is_never_in_a_masked_command(secret: str) -> None:
    for words in (["--api-key", secret, "--seed", "1"], ["--api-key=" + secret, "--seed", "1"], ["--api_key", secret]):
        masked = mask_command(words)
        assert secret in ("*", "**", "***") or secret not in [
            part for word in masked for part in word.split("=", 1)[1:]
        ]
        assert masked[-2:] == ["--seed", "1"] or masked == ["--api_key", "***"]

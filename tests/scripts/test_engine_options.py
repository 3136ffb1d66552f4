"""Tables of options are what an engine's parser says, on a small parser in place of an engine's."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_server.arguments import Kind
from inference_server.options import options_of as table_of
from scripts import engine_options
from scripts.engine_options import FOLDER, PARSERS, Option, differences, options_of, table


def optional_type(return_type: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a reader as vLLM makes them."""

    def parse(text: str) -> Any:
        return None if text == "None" else return_type(text)

    return parse


def union_dict_and_str(text: str) -> Any:
    return text


def small_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--version", action="version", version="1")
    group = parser.add_argument_group("a group")
    group.add_argument("--max-model-len", type=int)
    group.add_argument("--tensor-parallel-size", "-tp", type=int)
    group.add_argument("--enable-lora", action=argparse.BooleanOptionalAction)
    parser.add_argument("--headless", action="store_true")
    parser.add_argument("--hf-token", nargs="?", const=True)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--pair", nargs=2)
    parser.add_argument("--allowed-origins", type=json.loads)
    parser.add_argument("--speculative-config", type=optional_type(optional_type(json.loads)))
    parser.add_argument("--hf-overrides", type=union_dict_and_str)
    return parser


OPTIONS = [
    Option(("--max-model-len",), "value"),
    Option(("--tensor-parallel-size", "-tp"), "value"),
    Option(("--enable-lora", "--no-enable-lora"), "boolean"),
    Option(("--headless",), "flag"),
    Option(("--hf-token",), "optional"),
    Option(("--served-model-name",), "list"),
    Option(("--pair",), "list"),
    Option(("--allowed-origins",), "json"),
    Option(("--speculative-config",), "json"),
    Option(("--hf-overrides",), "json"),
]


def test_options_have_the_kind_of_their_action() -> None:
    assert options_of(small_parser()) == OPTIONS
    assert {option.kind for option in OPTIONS} == {kind.value for kind in Kind}


@pytest.mark.parametrize("engine", sorted(PARSERS))
def test_table_in_the_tree_has_the_form_that_is_written(engine: str) -> None:
    text = (FOLDER / f"{engine}.json").read_text()
    content = json.loads(text)
    options = [Option(tuple(option["names"]), option["kind"]) for option in content["options"]]
    assert table(engine, content["version"], options) == text
    known = table_of(engine)
    assert known is not None
    assert known.version == content["version"]


def test_differences_are_named() -> None:
    before = table("vllm", "1", [Option(("--a",), "value"), Option(("--b",), "flag"), Option(("--c",), "value")])
    after = table("vllm", "2", [Option(("--b",), "boolean"), Option(("--c",), "value"), Option(("--d",), "json")])
    assert differences(before, after) == [
        "--a is not in the engine",
        "--d (json) is not in the table",
        "--b is boolean, not flag",
    ]
    assert differences(before, before) == []


def test_table_is_written_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(engine_options.PARSERS, "vllm", small_parser)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.32.0+cpu")
    path = tmp_path / "vllm.json"
    words = ["vllm", "--output", str(path)]
    assert engine_options.main(words) == 0
    assert "vllm 0.32.0, 10 options" in capsys.readouterr().out
    assert engine_options.main([*words, "--check"]) == 0
    path.write_text(path.read_text().replace('"flag"', '"value"'))
    assert engine_options.main([*words, "--check"]) == 1
    assert "--headless is flag, not value" in capsys.readouterr().out

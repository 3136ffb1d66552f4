"""Writes the table of an engine's options from the engine's own parser: what `inference_server` checks options with.

Run it with the interpreter that has the engine, for it imports the engine:

    /path/to/vllm/bin/python scripts/engine_options.py vllm            write the table of the installed version
    /path/to/vllm/bin/python scripts/engine_options.py --check vllm    only say what differs; exit code 1 then

Needs nothing else, so it may be copied there alone; `--output` says where the table goes then. Without an engine
installed, `tests/scripts/test_engine_options.py` runs it on a small parser and on what is in the tree.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "inference-server/src/inference_server/engine_options"

READS_JSON = frozenset({"parse_dataclass", "union_dict_and_str"})
"""vLLM 0.32.0: functions that read JSON without `json.loads` in their closure."""


@dataclass(frozen=True)
class Option:
    """One option of an engine."""

    names: tuple[str, ...]
    kind: str
    """One of `inference_server.arguments.Kind`."""


def kind_of(action: argparse.Action) -> str:
    """Return what an option takes."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "boolean"
    if action.nargs == 0:
        return "flag"
    if action.nargs == "?":
        return "optional"
    if action.nargs is not None:
        return "list"
    return "json" if reads_json(action.type) else "value"


def reads_json(function: Any) -> bool:
    """Whether a `type` of argparse reads JSON: itself, or a function that it was made of."""
    if function is json.loads or getattr(function, "__name__", "") in READS_JSON:
        return True
    cells = getattr(function, "__closure__", None) or ()
    return any(reads_json(cell.cell_contents) for cell in cells if callable(cell.cell_contents))


def options_of(parser: argparse.ArgumentParser) -> list[Option]:
    """Return the options of a parser in its order, without help, version and positional arguments."""
    left_out = argparse._HelpAction | argparse._VersionAction
    return [
        Option(tuple(action.option_strings), kind_of(action))
        for action in parser._actions
        if action.option_strings and not isinstance(action, left_out)
    ]


def table(engine: str, version: str, options: Iterable[Option]) -> str:
    """Return the table as the tree has it: an option a line, so that a new version can be read as a difference."""
    lines = [json.dumps({"names": list(option.names), "kind": option.kind}) for option in options]
    head = f' "engine": {json.dumps(engine)},\n "version": {json.dumps(version)},\n "options": [\n  '
    return "{\n" + head + ",\n  ".join(lines) + "\n ]\n}\n"


def differences(before: str, after: str) -> list[str]:
    """Return what two tables have differently, for people."""
    old, new = (_kinds(json.loads(text)) for text in (before, after))
    removed = [f"{name} is not in the engine" for name in old if name not in new]
    added = [f"{name} ({kind}) is not in the table" for name, kind in new.items() if name not in old]
    changed = [f"{name} is {new[name]}, not {kind}" for name, kind in old.items() if new.get(name, kind) != kind]
    return [*removed, *added, *changed]


def _kinds(content: dict[str, Any]) -> dict[str, str]:
    return {name: option["kind"] for option in content["options"] for name in option["names"]}


def vllm_parser() -> argparse.ArgumentParser:
    """Return the parser of vLLM's API server."""
    cli_args = importlib.import_module("vllm.entrypoints.openai.cli_args")
    try:
        parsers = importlib.import_module("vllm.utils.argparse_utils")
    except ModuleNotFoundError:
        parsers = importlib.import_module("vllm.utils")  # before 0.12
    parser = cli_args.make_arg_parser(parsers.FlexibleArgumentParser())
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def sglang_parser() -> argparse.ArgumentParser:
    """Return the parser of SGLang's server."""
    parser = argparse.ArgumentParser()
    importlib.import_module("sglang.srt.server_args").ServerArgs.add_cli_args(parser)
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {"vllm": vllm_parser, "sglang": sglang_parser}


def main(argv: Sequence[str]) -> int:
    """Write or compare a table; return the exit code."""
    arguments = argparse.ArgumentParser(prog="engine_options.py", description=__doc__.split("\n")[0] if __doc__ else "")
    arguments.add_argument("engine", choices=sorted(PARSERS))
    arguments.add_argument("--check", action="store_true", help="write nothing; 1 if the table is not the engine's")
    arguments.add_argument("--output", type=Path, help="where the table is (default: in the tree)")
    wanted = arguments.parse_args(argv)
    path: Path = wanted.output or FOLDER / f"{wanted.engine}.json"
    version = importlib.metadata.version(wanted.engine).split("+")[0]
    text = table(wanted.engine, version, options_of(PARSERS[wanted.engine]()))
    if not wanted.check:
        path.write_text(text)
        print(f"{path}: {wanted.engine} {version}, {len(json.loads(text)['options'])} options")
        return 0
    found = differences(path.read_text(), text)
    print("\n".join(found) if found else f"{path} is that of {wanted.engine} {version}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

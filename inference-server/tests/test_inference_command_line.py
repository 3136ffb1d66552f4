"""The words of the command become a request, or one clear message."""

from __future__ import annotations

import re
from typing import Any

import pytest

from inference_server.command_line import CommandLineError, Request, content_of, parse, parser
from inference_server.commands import COMMANDS
from inference_server.exit_codes import MEANINGS


def content(text: str, file_content: dict[str, Any] | None = None) -> dict[str, Any]:
    return content_of(parse(text.split()), file_content or {})


def test_options_take_precedence_over_the_file() -> None:
    file_content = {
        "model": "m",
        "port": 1,
        "env_vars": {"A": "1", "B": "2"},
        "config": {"binary_path": "python", "api_server_args": ["--a"]},
    }
    words = (
        "run f.yaml --port 2 --env B=3 --env C=x=y --binary-path python3 --set startup_timeout=9 -- --max-model-len 8"
    )
    assert content(words, file_content) == {
        "model": "m",
        "port": 2,
        "startup_timeout": 9,
        "env_vars": {"A": "1", "B": "3", "C": "x=y"},
        "config": {"binary_path": "python3", "api_server_args": ["--a", "--max-model-len", "8"]},
    }


def test_server_needs_no_file() -> None:
    words = "start --backend sglang --model m --output-dir logs --replicas 2 --no-wait"
    assert content(words) == {"backend": "sglang", "model": "m", "output_dir": "logs", "replicas": 2}
    assert not parse(words.split()).wait


@pytest.mark.parametrize(
    ("words", "request_"),
    [
        ("ps --json", Request("ps", json=True)),
        ("stop 8000 --force", Request("stop", server="8000", force=True)),
        ("stop --all", Request("stop", all=True)),
        ("logs -f -n 5", Request("logs", follow=True, lines=5)),
        ("endpoints logs/a", Request("endpoints", server="logs/a")),
        ("run --verbose f", Request("run", verbose=True, config_file="f")),
        ("profile f --seconds 1.5 --name n", Request("profile", config_file="f", seconds=1.5, name="n")),
    ],
)
def test_words_become_a_request(words: str, request_: Request) -> None:
    assert parse(words.split()) == request_


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "required: COMMAND"),
        ("frobnicate", "invalid choice: 'frobnicate'"),
        ("run --modell m", "unrecognized arguments: --modell"),
        ("run --port x --model m", "'x' is not a port: a number from 0 to 65535"),
        ("run --port 65536 --model m", "'65536' is not a port"),
        ("run --port ² --model m", "'²' is not a port"),
        ("run --replicas 0 --model m", "'0' is not a number of servers"),
        ("run --env A --model m", "'A' is not of the form --env NAME=VALUE"),
        ("run --env =1 --model m", "'=1' is not of the form --env NAME=VALUE"),
        ("run --set a --model m", "'a' is not of the form --set KEY=VALUE"),
        ("run --set .a=1 --model m", "'.a' is not the name of a key"),
        ("run --set model.x=1 --model m", "'model' is not a mapping"),
        ("run", "say which model: --model NAME, or a CONFIG file"),
        ("run a b --model m", "unrecognized arguments: b"),
        ("logs -n many", "'many' is not a number of lines"),
        ("profile --seconds inf --model m", "'inf' is not a number of seconds"),
        ("profile --seconds 0 --model m", "'0' is not a number of seconds"),
        ("ps 8000", "unrecognized arguments: 8000"),
        ("ps -- --max-model-len", "takes nothing behind --"),
        ("run --model", "expected one argument"),
    ],
)
def test_wrong_words_are_said_in_one_message(words: str, message: str) -> None:
    with pytest.raises(CommandLineError, match=re.escape(message)):
        content(words)


def test_message_says_where_to_find_help() -> None:
    with pytest.raises(CommandLineError, match=r"Try: inference-server run --help$"):
        parse(["run", "--nonsense"])


def test_every_command_is_carried_out_and_explained() -> None:
    text = parser().format_help()
    for name in COMMANDS:
        assert re.search(rf"^ +{name}\b", text, re.M), name
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code} +{re.escape(meaning)}$", text, re.M), code


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command_explains_each_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse([name, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: inference-server {name}")
    for option in re.findall(r"^  (-.+?)(?:  .*)?$", text, re.M):
        assert re.search(rf"^  {re.escape(option)}(?:\s+\w|\n\s+\w)", text, re.M), f"{option} is not explained"

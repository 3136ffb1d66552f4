"""The page of the command `inference-server`: its commands with their options, and its exit codes."""

from __future__ import annotations

from scripts.reference import program
from scripts.reference.markdown import code, page, plain, table

INTRODUCTION = """\
`inference-server` starts, checks, lists and stops inference servers without Kubernetes:
[Engines without Kubernetes](../tasks/inference-server.md). `python -m inference_server` is the same. What stands behind
`--` is for the engine's own command line."""


def write() -> str:
    """Return the page."""
    parts = []
    for command in program.inference_commands():
        options = [
            (", ".join(code(name) for name in option.names), plain(option.meaning)) for option in command.options
        ]
        parts += [f"## {command.name}", f"```\n{command.usage}\n```", plain(command.description)]
        parts.append(table(("option", "meaning"), options))
    rows = [
        (code(str(number)), plain(meaning), ", ".join(code(cause) for cause in causes))
        for number, meaning, causes in program.inference_exit_codes()
    ]
    parts += ["## Exit codes", "A cause is the `cause` of the error, and of `--json`."]
    return page("The command inference-server", INTRODUCTION, *parts, table(("code", "meaning", "causes"), rows))

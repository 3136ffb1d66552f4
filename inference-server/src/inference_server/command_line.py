"""What the command `inference-server` understands: its words become a `Request`. Pure.

`commands` carries a request out. Everything behind `--` is for the engine's own command line. A wrong command line is
one message and exit code 2.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Mapping, NoReturn, Sequence

from inference_server.configuration import merged, with_engine_arguments, with_value
from inference_server.exit_codes import MEANINGS

PROGRAM = "inference-server"
LONGEST_RECORDING = 86400.0

DESCRIPTION = """\
Start, watch and stop inference servers: vLLM, SGLang, or a command of your own.
No process of an engine outlives the process that started it.
"""

EXAMPLES = """\
examples:
  inference-server check --model Qwen/Qwen3-0.6B            what would be started, and what is in its way
  inference-server run --model Qwen/Qwen3-0.6B              start it, and stop it with Ctrl-C
  inference-server run server.yaml -- --max-model-len 4096  a file, and options for the engine behind --
  inference-server start server.yaml                        start it in the background
  inference-server ps                                       which servers run, with their ports
  inference-server logs 8000 -f                             follow the log of the one on port 8000
  inference-server stop 8000                                stop it

exit codes:
%s
"""


class CommandLineError(Exception):
    """The command line is wrong. The message is for people."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    command: str
    json: bool = False
    verbose: bool = False
    # What to start
    config_file: str | None = None
    overrides: tuple[tuple[str, Any], ...] = ()
    """Keys of the configuration, and their values."""
    settings: tuple[tuple[str, str], ...] = ()
    """`--set KEY=VALUE`, in their order."""
    variables: tuple[tuple[str, str], ...] = ()
    """`--env NAME=VALUE`, in their order."""
    engine_words: tuple[str, ...] = ()
    wait: bool = True
    # Which server
    server: str | None = None
    all: bool = False
    force: bool = False
    follow: bool = False
    lines: int = 50
    # What to record
    name: str = ""
    seconds: float = 10.0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandLineError("%s\nTry: %s --help" % (message, self.prog))


def parse(argv: Sequence[str]) -> Request:
    """Read a command line.

    Raises:
        CommandLineError: it is wrong.
        SystemExit: it asks for help or the version, which has been printed.
    """
    words, engine_words = _split(argv)
    top, commands = parsers()
    options, unknown = top.parse_known_args(words)
    values = vars(options)
    command = values["command"]
    if unknown:
        commands[command].error("unrecognized arguments: %s" % " ".join(unknown))
    if engine_words and command not in STARTING:
        raise CommandLineError("`%s %s` takes nothing behind --" % (PROGRAM, command))
    keys = ("backend", "model", "port", "output_dir", "binary_path", "replicas")
    return Request(
        command=command,
        json=values["json"],
        verbose=values.get("verbose", False),
        config_file=values.get("config_file"),
        overrides=tuple((key, values[key]) for key in keys if values.get(key) is not None),
        settings=tuple(_pair(text, "--set KEY=VALUE") for text in values.get("set") or ()),
        variables=tuple(_pair(text, "--env NAME=VALUE") for text in values.get("env") or ()),
        engine_words=tuple(engine_words),
        wait=not values.get("no_wait", False),
        server=values.get("server"),
        all=values.get("all", False),
        force=values.get("force", False),
        follow=values.get("follow", False),
        lines=values.get("lines", Request.lines),
        name=values.get("name", Request.name),
        seconds=values.get("seconds", Request.seconds),
    )


def content_of(request: Request, file_content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that a request describes: the file's, and what the command line has on top.

    Raises:
        CommandLineError: something is missing or contradicts the file.
    """
    overrides = dict(request.overrides)
    if "binary_path" in overrides:
        # The key in `config` counts more than the one at the top.
        overrides["config"] = {"binary_path": overrides.pop("binary_path")}
    try:
        content = merged(file_content, overrides)
        for key, text in request.settings:
            content = with_value(content, key, text)
        if request.variables:
            content = merged(content, {"env_vars": dict(request.variables)})
        content = with_engine_arguments(content, request.engine_words)
    except (ValueError, TypeError) as error:
        raise CommandLineError(str(error)) from error
    if not content.get("model") and not content.get("servers"):
        raise CommandLineError("say which model: --model NAME, or a CONFIG file that has `model`")
    return content


STARTING = ("run", "check", "start", "profile")
"""Commands that take the description of a server."""


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(argv)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _pair(text: str, form: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise CommandLineError("%r is not of the form %s" % (text, form))
    return name, value


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command."""
    return parsers()[0]


def parsers() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser of the whole command, and those of its commands by name."""
    codes = "\n".join("  %-4d %s" % (code, meaning) for code, meaning in MEANINGS.items())
    top = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EXAMPLES % codes,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    commands.required = True
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print JSON in place of text")

    def add(name: str, summary: str, description: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=description,
            parents=[common],
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    described = [
        add(
            "run",
            "start a server here, and stop it with Ctrl-C or SIGTERM",
            "Start one server or several, and keep them until Ctrl-C or SIGTERM stops them. A second\n"
            "Ctrl-C ends every process at once. Fit for a container's entrypoint.",
        ),
        add(
            "check",
            "say what would be started, and what is in its way; start nothing",
            "Print the command, and check program, options, port, GPUs, model and disk. Nothing is\n"
            "started. The exit code is that of the first problem.",
        ),
        add(
            "start",
            "start a server in the background, and return when it serves",
            "Start one server or several in the background, owned by a small process of their own.\n"
            "Stop them with `inference-server stop`. Ctrl-C before they serve ends the start.",
        ),
        add(
            "profile",
            "start a server, record a profile, stop it",
            "Start a server, record for some seconds with the profiler of its configuration, stop it, and\n"
            "print the files. Send it requests meanwhile. Ctrl-C ends the recording earlier. A server that\n"
            "runs already is profiled by the program that owns it: `with server.profile()`.",
        ),
    ]
    for each in described:
        _add_description(each)
    described[0].add_argument("-v", "--verbose", action="store_true", help="print what is done, step by step")
    described[3].add_argument(
        "--seconds", type=_seconds, default=Request.seconds, help="how long to record (default: 10)"
    )
    described[3].add_argument("--name", default=Request.name, help="of the profile, in the names of its files")
    described[2].add_argument("--no-wait", action="store_true", help="return at once; look with `inference-server ps`")

    stop = add(
        "stop",
        "stop a server that runs",
        "Stop a server and wait until none of its processes is left. A server that another program\n"
        "owns, such as a notebook, is only ended with --force: that program has to stop it itself.",
    )
    _add_server(stop)
    stop.add_argument("--all", action="store_true", help="stop every server that the command started")
    stop.add_argument("--force", action="store_true", help="kill every process of the server now, whatever owns it")
    add("ps", "list the servers of this user that run", "List the servers of this user that run on this machine.")
    logs = add("logs", "print the last lines of a server's log", "Print the last lines of a server's logs.")
    _add_server(logs)
    logs.add_argument("-f", "--follow", action="store_true", help="go on printing until the server has ended")
    logs.add_argument("-n", "--lines", type=_lines, default=Request.lines, help="lines of each file (default: 50)")
    endpoints = add("endpoints", "list the URLs of a server", "List the URLs that a running server says it has.")
    _add_server(endpoints)
    return top, commands.choices


def _add_description(to: argparse.ArgumentParser) -> None:
    to.usage = "%s [CONFIG] [options] [-- ENGINE OPTIONS]" % to.prog
    to.add_argument("config_file", nargs="?", metavar="CONFIG", help="a YAML file; options take precedence over it")
    to.add_argument("--model", help="name or path of the model")
    to.add_argument("--backend", help="vllm (the default), sglang, or one that another package adds")
    to.add_argument("--port", type=_port, help="the port (default: 8000; 0: a free one)")
    to.add_argument("--output-dir", metavar="DIR", help="where logs and run.json go (default: ./server_logs)")
    to.add_argument("--binary-path", metavar="PYTHON", help="the interpreter that has the engine (default: python)")
    to.add_argument(
        "--replicas", type=_replicas, metavar="N", help="start N equal servers on ports and GPUs of their own"
    )
    to.add_argument(
        "--env", action="append", metavar="NAME=VALUE", help="a variable of the engine; may be given several times"
    )
    to.add_argument(
        "--set",
        action="append",
        metavar="KEY=VALUE",
        help="any other key of the file, such as startup_timeout=900 or profile.enabled=true",
    )


def _add_server(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "server",
        nargs="?",
        metavar="SERVER",
        help="its port, pid, model or output directory; not needed if only one runs",
    )


def _port(text: str) -> int:
    number = _whole(text)
    if number is None or number > 65535:
        raise argparse.ArgumentTypeError("%r is not a port: a number from 0 to 65535" % text)
    return number


def _replicas(text: str) -> int:
    number = _whole(text)
    if not number:
        raise argparse.ArgumentTypeError("%r is not a number of servers" % text)
    return number


def _lines(text: str) -> int:
    number = _whole(text)
    if number is None:
        raise argparse.ArgumentTypeError("%r is not a number of lines" % text)
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < LONGEST_RECORDING:
        raise argparse.ArgumentTypeError("%r is not a number of seconds" % text)
    return number


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None

"""Carries out what the command `inference-server` is asked for, and returns its exit code.

`command_line` has read the words, `command_output` says how the answers look, `serving` keeps servers. Here is what
needs the machine: the configuration file, the servers that run, signals to their owners.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

from inference_server import command_output, exit_codes, http_check, processes
from inference_server.command_line import PROGRAM, CommandLineError, Request, content_of, parse
from inference_server.command_output import Event
from inference_server.detached import start_detached
from inference_server.endpoints import served_endpoints
from inference_server.errors import Cause
from inference_server.factory import load_server_config
from inference_server.fleet import fleet_from_config
from inference_server.logs import LogFollower
from inference_server.masking import mask_words
from inference_server.run_file import NAME, RunningServer, is_running, read_record, running_servers
from inference_server.run_record import COMMAND, RunRecord
from inference_server.serving import Emit, record, serve
from inference_server.stopping import KILL_SECONDS

OWNER_SECONDS = 15.0
"""What the owner of a server has beyond the server's own limits to write down its stop and to end."""

LOOK_SECONDS = 0.05
FOLLOW_SECONDS = 0.2
HTTP_SECONDS = 10.0
ANSWERS = ("ready", "stopped", "profile")
"""Events that are what the caller wants to know: they go to stdout, all others to stderr."""

INPUT_ERRORS = (CommandLineError, ValueError, OSError, ImportError)


class NotRunningError(Exception):
    """No such server runs. The message is for people."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    words = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in words[: words.index("--") if "--" in words else None]
    emit = _emitter(as_json)
    try:
        request = parse(words)
        logging.basicConfig(
            level=logging.INFO if request.verbose else logging.WARNING,
            format="%(levelname)s: %(message)s",
            stream=sys.stderr,
        )
        return COMMANDS[request.command](request, emit)
    except NotRunningError as error:
        emit(dict(command_output.error_event(error), code=exit_codes.NOT_FOUND))
        return exit_codes.NOT_FOUND
    except INPUT_ERRORS as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # `inference-server ps | head` has read enough
            return exit_codes.OK
        emit(dict(command_output.error_event(error), code=exit_codes.WRONG_INPUT))
        return exit_codes.WRONG_INPUT
    except KeyboardInterrupt:
        return exit_codes.INTERRUPTED


def _emitter(as_json: bool) -> Emit:
    def emit(event: Event) -> None:
        if as_json:
            print(command_output.line_of(event), flush=True)
            return
        text = command_output.text_of(event)
        if text:
            print(text, file=sys.stdout if event["event"] in ANSWERS else sys.stderr, flush=True)

    return emit


def _content(request: Request) -> Mapping[str, Any]:
    return content_of(request, load_server_config(request.config_file) if request.config_file else {})


def _run(request: Request, emit: Emit) -> int:
    return serve(_content(request), emit)


def _start(request: Request, emit: Emit) -> int:
    code = start_detached(_content(request), request.wait, emit)
    if code == exit_codes.OK and not request.json:
        print("it runs in the background: `%s ps` lists it, `%s stop` stops it" % (PROGRAM, PROGRAM), file=sys.stderr)
    return code


def _profile(request: Request, emit: Emit) -> int:
    return record(_content(request), request.name, request.seconds, emit)


def _check(request: Request, emit: Emit) -> int:
    fleet = fleet_from_config(_content(request))
    reports = [server.check() for server in fleet.servers]
    if request.json:
        print(command_output.document_of([command_output.check_values(report) for report in reports]))
    else:
        print("\n\n".join(command_output.check_text(report) for report in reports))
    problems = [problem for report in reports for problem in report.problems]
    if not problems:
        return exit_codes.OK
    return exit_codes.BY_CAUSE[problems[0].cause or Cause.UNKNOWN]


# Servers that run


def _ps(request: Request, emit: Emit) -> int:
    servers = running_servers()
    if request.json:
        print(
            command_output.document_of(
                [
                    command_output.server_values(server.record)
                    if server.record
                    else {"keeper_pid": server.keeper.pid, "owner_pid": server.owner_pid, "run_file": str(server.path)}
                    for server in servers
                ]
            )
        )
        return exit_codes.OK
    rows = [
        command_output.ps_row(server.record)
        if server.record
        else ("?", "?", "?", "?", "-", str(server.owner_pid), "-", "?", str(server.path.parent))
        for server in servers
    ]
    print(command_output.table(command_output.PS_HEADS, rows))
    return exit_codes.OK


def _stop(request: Request, emit: Emit) -> int:
    if request.all and request.server:
        raise CommandLineError("give a server or --all, not both")
    servers = running_servers()
    chosen = owned_by_the_command(servers) if request.all else [choose(request.server, servers)]
    if request.force:
        return _kill(chosen, emit)
    for server in chosen:
        if server.record is None or server.record.owned_by != COMMAND:
            words = " ".join(mask_words(processes.words_of(server.owner_pid)))[:100].encode("utf-8", "replace").decode()
            raise CommandLineError(
                "the server belongs to another program (%s, pid %d), which has to stop it itself; --force ends it now"
                % (words, server.owner_pid)
            )
    return _ask_owners(chosen, servers, emit)


def _ask_owners(chosen: Sequence[RunningServer], servers: Sequence[RunningServer], emit: Emit) -> int:
    """Have the owners stop what they own, and wait until it is done."""
    owners = {server.record.owner for server in chosen if server.record is not None}
    owned = [server for server in servers if server.record is not None and server.record.owner in owners]
    for server in owned:
        if server not in chosen and server.record is not None:
            print("stops too, with the same owner: port %d" % server.record.port, file=sys.stderr)
    for owner in owners:
        processes.send_signal(owner, signal.SIGTERM)
    longest = max((server.record.stop_timeout for server in owned if server.record is not None), default=0.0)
    ended = _wait_until(lambda: not any(processes.is_alive(owner) for owner in owners), longest + OWNER_SECONDS)
    reports = []
    for server in owned:
        before, after = server.record, read_record(server.path)
        assert before is not None
        if after is not None and after.keeper == before.keeper and after.stop is not None:
            reports.append({"name": _name_of(before), **after.stop})
    emit({"event": "stopped", "servers": reports})
    if not ended or any(report["survivors"] for report in reports):
        return exit_codes.TIME
    return exit_codes.OK


def _kill(chosen: Sequence[RunningServer], emit: Emit) -> int:
    """Have the keepers kill what they keep, and wait until it is done."""
    began = time.monotonic()
    for server in chosen:
        processes.send_signal(server.keeper, signal.SIGTERM)
    ended = _wait_until(
        lambda: not any(processes.is_alive(server.keeper) for server in chosen), KILL_SECONDS + OWNER_SECONDS
    )
    seconds = round(time.monotonic() - began, 3)
    reports = [
        {
            "name": _name_of(server.record) if server.record else str(server.path.parent),
            "seconds": seconds,
            "exit_code": -int(signal.SIGKILL),
            "survivors": [server.keeper.pid] if processes.is_alive(server.keeper) else [],
        }
        for server in chosen
    ]
    emit({"event": "stopped", "servers": reports})
    return exit_codes.OK if ended else exit_codes.TIME


def _wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def owned_by_the_command(servers: Sequence[RunningServer]) -> list[RunningServer]:
    """Return the servers that `--all` means: another program's server is that program's matter. Pure."""
    return [server for server in servers if server.record is not None and server.record.owned_by == COMMAND]


def choose(word: str | None, servers: Sequence[RunningServer]) -> RunningServer:
    """Return the server that a word means.

    Raises:
        NotRunningError: there is none.
        CommandLineError: there are several.
    """
    found = [server for server in servers if word is None or _matches(server, word)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise NotRunningError("no server of this user runs%s" % ("" if word is None else " that %r means" % word))
    ports = ", ".join(str(server.record.port) if server.record else str(server.path.parent) for server in found)
    raise CommandLineError("several servers run: say which, by its port (%s)" % ports)


def _matches(server: RunningServer, word: str) -> bool:
    if os.path.realpath(word) == os.path.realpath(str(server.path.parent)):
        return True
    record = server.record
    if record is None:
        return word in (str(server.owner_pid), str(server.keeper.pid))
    numbers = (record.port, record.owner.pid, record.keeper.pid, record.engine.pid if record.engine else None)
    return word in (record.model, record.url, *map(str, numbers))


def _name_of(record: RunRecord) -> str:
    return "%s on port %d" % (record.backend, record.port)


def _record_of(word: str | None) -> tuple[RunRecord, bool]:
    """Return the record of a server that runs, or of the last run that wrote into a directory; and whether it runs."""
    written = read_record(Path(word) / NAME) if word is not None else None
    if written is not None:
        return written, is_running(written)
    server = choose(word, running_servers())
    if server.record is None:
        raise NotRunningError("%s is not there or belongs to another run" % server.path)
    return server.record, True


def _logs(request: Request, emit: Emit) -> int:
    record, _ = _record_of(request.server)
    paths = [Path(record.log_file), Path(record.error_log_file)]
    followers = [LogFollower([path]) for path in paths]
    for path, follower in zip(paths, followers):
        follower.read()
        lines = follower.lines()[-request.lines :] if request.lines else []
        if request.json:
            print(command_output.line_of({"file": str(path), "lines": lines}))
        elif lines:
            print("==> %s <==" % path)
            print("\n".join(lines), flush=True)
    while request.follow:
        alive = is_running(record)  # asked first: what was written before the end is printed
        for path, follower in zip(paths, followers):
            new = follower.read()
            if new and request.json:
                print(command_output.line_of({"file": str(path), "lines": new}), flush=True)
            elif new:
                print("\n".join(new), flush=True)
        if not alive:
            break
        time.sleep(FOLLOW_SECONDS)
    return exit_codes.OK


def _endpoints(request: Request, emit: Emit) -> int:
    record, alive = _record_of(request.server)
    found: Mapping[str, str] = {}
    if alive:
        answer = http_check.get(record.url + "/openapi.json", HTTP_SECONDS)
        found = served_endpoints(record.url, answer.json()) if answer is not None else {}
    urls = found or record.endpoints
    if request.json:
        print(command_output.document_of(dict(urls)))
    else:
        print(command_output.table(("NAME", "URL"), sorted(urls.items())))
    return exit_codes.OK


COMMANDS: Mapping[str, Callable[[Request, Emit], int]] = {
    "run": _run,
    "check": _check,
    "start": _start,
    "profile": _profile,
    "stop": _stop,
    "ps": _ps,
    "logs": _logs,
    "endpoints": _endpoints,
}

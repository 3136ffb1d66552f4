"""Keeps the servers of a configuration until something ends them: Ctrl-C, SIGTERM, SIGHUP, or their own end.

`commands` calls `serve` for `run`, `detached` for `start`. The first signal stops in order, the second kills. Whatever
ends this process in another way, the keepers end the engines.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Callable, Iterator, Mapping

from inference_server.command_output import Event, error_event
from inference_server.errors import Cause, InferenceServerError
from inference_server.exit_codes import BY_CAUSE, ENDED, FAILED, INTERRUPTED, OK
from inference_server.fleet import Fleet, fleet_from_config
from inference_server.run_record import COMMAND, stop_values
from inference_server.server import InferenceServer

Emit = Callable[[Event], None]


class Termination(BaseException):
    """SIGTERM or SIGHUP came. Like KeyboardInterrupt, it ends whatever the main thread does."""


def serve(content: Mapping[str, Any], emit: Emit) -> int:
    """Start the servers of a configuration, keep them, stop them; return the exit code.

    Raises:
        ValueError: the configuration is wrong.
    """
    fleet = fleet_from_config(content)
    for index, server in enumerate(fleet.servers):
        server.owned_by = COMMAND
        server.on_phase = functools.partial(_emit_phase, fleet, index, time.monotonic(), emit)
        server.on_change = _ended_listener(fleet, index, emit, server.on_change)
    emit({"event": "starting", "servers": [_description(fleet, index) for index in range(len(fleet.servers))]})
    with _termination_raises():
        try:
            fleet.start()
            emit(
                {
                    "event": "ready",
                    "servers": [
                        _description(fleet, index) for index, server in enumerate(fleet.servers) if server.is_running
                    ],
                }
            )
        except InferenceServerError as error:
            emit(error_event(error))
            return int(error_event(error)["code"])
        except BaseException as interrupt:  # noqa: BLE001 - a signal: `_code_of` raises what is not one
            with _killed_if_interrupted(fleet):
                fleet.stop()
            return _code_of(interrupt)
        return _keep(fleet, emit)


def _keep(fleet: Fleet, emit: Emit) -> int:
    """Wait for an end, and stop what is left."""
    code = OK
    try:
        fleet.wait()
        code = ENDED
    except BaseException as interrupt:  # noqa: BLE001 - a signal: `_code_of` raises what is not one
        code = _code_of(interrupt)
    dead = [server for server in fleet.servers if server.state == "dead"]
    if dead and code in (OK, ENDED):
        code = _code_of_death(dead[0])
    try:
        with _killed_if_interrupted(fleet):
            fleet.stop()
    except InferenceServerError as error:
        emit(error_event(error))
        code = code or int(error_event(error)["code"])
    reports = [
        {"name": fleet.name_of(index), **stop_values(server.stop_report)}
        for index, server in enumerate(fleet.servers)
        if server.stop_report is not None
    ]
    emit({"event": "stopped", "servers": reports})
    return code


def _code_of(interrupt: BaseException) -> int:
    if isinstance(interrupt, Termination):
        return OK
    if isinstance(interrupt, KeyboardInterrupt):
        return INTERRUPTED
    raise interrupt


def _code_of_death(server: InferenceServer) -> int:
    """Return the exit code for a server that ended by itself: by its cause, where the log has one."""
    record = server.run_file.record
    cause = record.error["cause"] if record is not None and record.error else Cause.UNKNOWN.value
    code = BY_CAUSE[Cause(cause)]
    return ENDED if code == FAILED else code


@contextlib.contextmanager
def _killed_if_interrupted(fleet: Fleet) -> Iterator[None]:
    """End everything at once if a second signal comes."""
    try:
        yield
    except (KeyboardInterrupt, Termination):
        fleet.kill()


@contextlib.contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, while this lasts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Termination(number)

    before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    # A shell's background jobs ignore Ctrl-C, and hand that down.
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _description(fleet: Fleet, index: int) -> dict[str, Any]:
    server = fleet.servers[index]
    return {
        "name": fleet.name_of(index),
        "model": server.model,
        "url": server.server_url,
        "port": server.port,
        "output_dir": os.path.abspath(server.output_dir),
        "owner_pid": os.getpid(),
    }


def _emit_phase(fleet: Fleet, index: int, began: float, emit: Emit, phase: str) -> None:
    seconds = round(time.monotonic() - began, 3)
    emit({"event": "phase", "server": fleet.name_of(index), "phase": phase, "seconds": seconds})


def _ended_listener(fleet: Fleet, index: int, emit: Emit, inner: Callable[[str], None] | None) -> Callable[[str], None]:
    def changed(state: str) -> None:
        server = fleet.servers[index]
        if state == "dead" and server.phase == "ready":
            record = server.run_file.record
            emit({"event": "ended", "server": fleet.name_of(index), "error": record.error if record else None})
        if inner is not None:
            inner(state)

    return changed

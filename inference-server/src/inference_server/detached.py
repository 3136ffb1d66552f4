"""Servers in the background: owned by a process of its own, which lives until it is stopped or its servers end.

`start_detached` starts that process and follows what it says until the servers serve. The configuration goes through a
pipe, so that no secret is in a command line. Until then the pipe is a lifeline: when the command is interrupted, the
owner ends the start. Afterwards the owner is the engine's only owner, and what ends it ends the engines.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Mapping

from inference_server.command_output import Event, error_event, line_of
from inference_server.exit_codes import FAILED, OK, WRONG_INPUT
from inference_server.logs import keep_previous
from inference_server.serving import Emit, serve
from inference_server.stopping import KILL_SECONDS

OWNER_LOG = "owner.log"
"""What the owner itself has to say, beside the engine's logs."""

CODE = "import sys; sys.path.insert(0, sys.argv[1]); from inference_server.detached import main; sys.exit(main())"
PACKAGES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def start_detached(content: Mapping[str, Any], wait: bool, emit: Emit) -> int:
    """Start servers in the background, and pass on what happens; return the exit code.

    With `wait` this returns when they serve, else when the owner has understood the configuration.

    Raises:
        OSError: the directory of the logs cannot be written.
    """
    folder = Path(str(content.get("output_dir") or "./server_logs"))
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / OWNER_LOG
    keep_previous(log)
    with log.open("ab") as file:
        owner = subprocess.Popen(  # noqa: S603 - this interpreter, and our own code
            [sys.executable, "-c", CODE, PACKAGES],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )
    assert owner.stdin is not None
    assert owner.stdout is not None
    try:
        owner.stdin.write(line_of({"content": content, "wait": wait}).encode() + b"\n")
        owner.stdin.flush()
        for line in owner.stdout:
            event = json.loads(line.decode("utf-8"))
            emit(event)
            if event["event"] == "error":
                return int(event["code"])
            if event["event"] == ("ready" if wait else "starting"):
                return OK
    except (BrokenPipeError, ValueError):
        pass  # the owner ended: its log says why
    except BaseException:
        # Interrupted: the end of the lifeline ends the start, and it is waited for.
        owner.stdin.close()
        owner.wait(timeout=2 * KILL_SECONDS)
        raise
    finally:
        owner.stdout.close()
    code = owner.wait(timeout=2 * KILL_SECONDS)
    emit(error_event(RuntimeError("the owner in the background ended with exit code %s: see %s" % (code, log))))
    return FAILED


def main() -> int:
    """Be the owner: read a configuration from the lifeline, serve, and say what happens until it is known."""
    with open(0, "rb", buffering=0, closefd=False) as lifeline:
        order = json.loads(lifeline.readline().decode("utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    speaker = _Speaker(last="ready" if order["wait"] else "starting")
    if order["wait"]:
        threading.Thread(target=speaker.end_with_the_lifeline, daemon=True).start()
    try:
        return serve(order["content"], speaker.emit)
    except (ValueError, OSError, ImportError) as error:
        speaker.emit(error_event(error))
        return WRONG_INPUT


class _Speaker:
    """Says what happens to the command that started this process, until it has heard what it waits for."""

    def __init__(self, last: str) -> None:
        self._last = last
        self._heard = threading.Event()
        self._speaking = threading.Lock()

    def emit(self, event: Event) -> None:
        with self._speaking:
            is_last = event["event"] == self._last and not self._heard.is_set()
            if is_last:
                self._heard.set()
            try:
                os.write(1, line_of(event).encode() + b"\n")
            except BrokenPipeError:
                if is_last:
                    os.kill(os.getpid(), signal.SIGTERM)  # interrupted at the last moment: so nothing is kept
            if is_last:
                os.dup2(2, 1)  # from here on to the log

    def end_with_the_lifeline(self) -> None:
        while os.read(0, 4096):
            pass
        if not self._heard.is_set():
            os.kill(os.getpid(), signal.SIGTERM)

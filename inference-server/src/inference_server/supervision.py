"""Starts an engine under a keeper, and stands for it in the owner's process.

`EngineProcess` has the methods of `subprocess.Popen` that callers use, but the engine is the keeper's child: orders
go to the keeper, its words come back on a thread that sleeps in between. If the keeper is the first to die, this side
kills what is left: the processes that it has seen, their descendants, the engine's session, and what has the run's
variable.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from typing import Callable, Mapping, Sequence

from inference_server import processes
from inference_server.errors import Cause, ServerStartupError
from inference_server.processes import Identity, Stat

MARK = "INFERENCE_SERVER_RUN"
"""A variable of every process of one run."""

KEEPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "keeper.py")
KEEPER_SECONDS = 30.0
"""How long the keeper has to start the engine. It takes 0.05 s on an idle machine."""

SWEEP_SECONDS = 5.0
"""How long the owner looks for what a dead keeper left."""

_all: weakref.WeakSet[EngineProcess] = weakref.WeakSet()


class EngineProcess:
    """An engine that runs under a keeper. Made by `hire_keeper`."""

    def __init__(self, command: Sequence[str], keeper: subprocess.Popen[bytes], control: socket.socket) -> None:
        self.args = list(command)
        self.pid = 0
        self.returncode: int | None = None
        self.keeper_pid = keeper.pid
        self.keeper_lost = False
        """Whether the keeper died before the engine."""
        self.failure = ""
        """Why the command could not be run; empty if it could."""
        self.on_exit: Callable[[], None] | None = None
        """Called on a thread of its own when the engine's first process has ended."""
        self._keeper = keeper
        self._control = control
        self._mark = os.urandom(16).hex()
        self._identities: set[Identity] = set()
        self._changed = threading.Condition()
        self._said_gone = False
        self._all_ended = False
        """Whether no process is left, the keeper included."""
        self._sending = threading.Lock()
        self._owner = os.getpid()
        _all.add(self)
        threading.Thread(target=self._listen, name="inference-server-keeper", daemon=True).start()

    # What subprocess.Popen has

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while the engine runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the engine's first process to end; return its exit code.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        if not self._wait_for(lambda: self.returncode is not None, timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to the engine's first process."""
        self._order("signal leader %d" % number)

    def terminate(self) -> None:
        """Send SIGTERM to the engine's first process."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill every process of the engine."""
        self._order("kill")

    # What a tree of processes needs

    def signal_group(self, number: int) -> None:
        """Send a signal to the engine's process group."""
        self._order("signal group %d" % number)

    def mark_stopping(self) -> None:
        """Tell the keeper that the first process may end before the others."""
        self._order("stopping")

    def has_gone(self) -> bool:
        """Whether no process of the engine is left."""
        return self._all_ended

    def wait_until_gone(self, timeout: float) -> bool:
        """Wait until no process of the engine is left; return whether that came."""
        return self._wait_for(lambda: self._all_ended, timeout)

    def wait_for_exit(self, timeout: float) -> bool:
        """Wait for the first process to end; return whether it has."""
        return self._wait_for(lambda: self.returncode is not None, timeout)

    def members(self) -> list[Stat]:
        """Return the engine's living processes, and remember them for when the keeper is gone."""
        everything = processes.all_processes()
        if self._all_ended:
            found = []
        elif self.keeper_lost:
            found = processes.belongs_to(everything, self._identities, self.pid)
        else:
            found = processes.descendants(everything, [self.keeper_pid])
        self._identities = {stat.identity for stat in found} | {
            each for each in self._identities if processes.is_alive(each)
        }
        return found

    def remains(self) -> list[Stat]:
        """Return the living processes that can be seen to be of this run, wherever they are in the tree."""
        everything = processes.all_processes()
        found = {stat.identity: stat for stat in processes.belongs_to(everything, self._identities, self.pid)}
        mark = ("%s=%s" % (MARK, self._mark)).encode()
        for stat in everything:
            marked = (
                stat.alive and stat.identity.pid != self.keeper_pid and processes.has_variable(stat.identity.pid, mark)
            )
            if marked:
                found[stat.identity] = stat
        return list(found.values())

    def forget_in_child(self) -> None:
        """In a fork of the owner: let go of the lifeline, which is the owner's alone."""
        self._control.close()

    # The conversation with the keeper

    def _order(self, order: str, payload: bytes = b"") -> None:
        if os.getpid() != self._owner:
            return
        try:
            with self._sending:
                self._control.sendall(order.encode() + b"\n" + payload)
        except OSError:
            pass  # the keeper is gone, and `_listen` does what has to be done

    def start(self, directory: str, environment: Mapping[str, str]) -> None:
        """Let the keeper run the command in a directory; return when it runs.

        Raises:
            ServerStartupError: the command could not be run, or the keeper ended.
        """
        marked = dict(environment, **{MARK: self._mark})
        words = [os.fsencode(word) for word in self.args]
        variables = [os.fsencode(name) + b"=" + os.fsencode(value) for name, value in marked.items()]
        if any(b"\0" in part for part in words + variables):
            raise ServerStartupError("a word of the command or a variable contains a NUL", cause=Cause.INVALID_VALUE)
        payload = b"\0".join([str(len(words)).encode(), os.fsencode(directory), *words, *variables]) + b"\0"
        self._order("launch %d" % len(payload), payload)
        if not self._wait_for(lambda: self.pid > 0 or bool(self.failure) or self._all_ended, KEEPER_SECONDS):
            raise ServerStartupError("the keeper did not start the engine", cause=Cause.KEEPER)
        if self.failure:
            raise ServerStartupError("cannot run %s: %s" % (self.args[0], self.failure), cause=Cause.NOT_FOUND)
        if not self.pid:
            raise ServerStartupError("the keeper ended before it started the engine", cause=Cause.KEEPER)

    def _listen(self) -> None:
        received = b""
        while True:
            try:
                data = self._control.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            received += data
            while b"\n" in received:
                line, received = received.split(b"\n", 1)
                self._hear(line.decode("utf-8", "replace"))
        self._keeper.wait()
        if not self._said_gone:
            self.keeper_lost = True
            self._sweep()
            self._update(returncode=-signal.SIGKILL if self.returncode is None else self.returncode)
        self._update(all_ended=True, returncode=127 if self.returncode is None else None)
        self._control.close()

    def _hear(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "started":
            stat = processes.stat_of(int(rest))
            if stat is not None:
                self._identities.add(stat.identity)
            self._update(pid=int(rest))
        elif word == "failed":
            self._update(failure=rest)
        elif word == "exited":
            status = int(rest)
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            self._update(returncode=code)
        elif word == "gone":
            self._said_gone = True

    def _update(
        self,
        *,
        pid: int | None = None,
        failure: str | None = None,
        returncode: int | None = None,
        all_ended: bool = False,
    ) -> None:
        with self._changed:
            ended = returncode is not None and self.returncode is None
            self.pid = self.pid if pid is None else pid
            self.failure = self.failure if failure is None else failure
            self.returncode = self.returncode if returncode is None else returncode
            self._all_ended = self._all_ended or all_ended
            self._changed.notify_all()
        if ended and self.on_exit is not None:
            threading.Thread(target=self.on_exit, name="inference-server-exit", daemon=True).start()

    def _wait_for(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(condition, timeout)

    def _sweep(self) -> None:
        """Kill what a keeper left that was the first to die."""
        until = time.monotonic() + SWEEP_SECONDS
        while time.monotonic() < until:
            left = self.remains()
            if not left:
                return
            self._identities |= {stat.identity for stat in left}
            for stat in left:
                processes.send_signal(stat.identity, signal.SIGKILL)
            time.sleep(0.01)


def hire_keeper(command: Sequence[str], stdout: int, stderr: int, run_file: str) -> EngineProcess:
    """Start a keeper for a command, which runs only after `start`: so that the caller can hold it before anything runs.

    `stdout` and `stderr` are file descriptors, which the caller closes. `run_file` is the absolute path of the run's
    record, which the keeper's command line shows.
    """
    own_end, keeper_end = socket.socketpair()
    try:
        descriptors = (keeper_end.fileno(), stdout, stderr)
        keeper = subprocess.Popen(  # noqa: S603 - this interpreter, and our own file
            [sys.executable, "-I", "-S", KEEPER, *(str(each) for each in descriptors), str(os.getpid()), run_file],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=descriptors,
            start_new_session=True,
            cwd="/",
        )
        return EngineProcess(command, keeper, own_end)
    except BaseException:
        # The keeper leaves when its lifeline ends, and so does Ctrl-C at any moment.
        with contextlib.suppress(OSError):
            own_end.shutdown(socket.SHUT_RDWR)
        raise
    finally:
        keeper_end.close()


def _forget_in_child() -> None:
    for process in list(_all):
        process.forget_in_child()
    _all.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)

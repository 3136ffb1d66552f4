"""Keeps the servers of a configuration until something ends them: Ctrl-C, SIGTERM, SIGHUP, or their own end.

`commands` calls `serve` for `run` and `record` for `profile`, `detached` calls `serve` for `start`. The first signal
stops in order, the second kills. Starts and stops are on threads; the main thread only waits for signals and for what
the threads say, through a pipe, so that a signal is never an exception in the middle of something. Whatever ends this
process in another way, the keepers end the engines.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import threading
import time
from typing import Any, Callable, Iterator, Mapping

from inference_server.command_output import Event, error_event
from inference_server.errors import Cause
from inference_server.exit_codes import BY_CAUSE, ENDED, FAILED, INTERRUPTED, OK
from inference_server.factory import server_from_config
from inference_server.fleet import Fleet, fleet_from_config
from inference_server.run_record import COMMAND, stop_values

Emit = Callable[[Event], None]
LOOK_SECONDS = 0.05
"""How often a stop looks whether the start that it ends has ended."""


def serve(content: Mapping[str, Any], emit: Emit) -> int:
    """Start the servers of a configuration, keep them, stop them; return the exit code.

    Raises:
        ValueError: the configuration is wrong.
    """
    with _Wakeups.installed() as wakeups:
        return _Service(fleet_from_config(content), _never_raising(emit), wakeups).run()


def record(content: Mapping[str, Any], name: str, seconds: float, emit: Emit) -> int:
    """Start the server of a configuration, record a profile for some seconds, stop it; return the exit code.

    The first signal ends the recording early, and its files are still waited for; the second one kills.

    Raises:
        ValueError: the configuration is wrong.
    """
    server = server_from_config(content)
    server.owned_by = COMMAND
    emit = _never_raising(emit)
    enough = threading.Event()
    files: list[str] = []

    def profile() -> None:
        with server.profile(name) as recorded:
            emit({"event": "recording", "server": server.server_url, "seconds": seconds})
            enough.wait(seconds)
        files.extend(os.path.abspath(path) for path in recorded.files)

    with _Wakeups.installed() as wakeups:
        work, kill = _Work(profile, wakeups), _Work(server.kill, wakeups)
        signals: list[int] = []
        work.begin()
        while not work.done:
            signals += wakeups.wait()
            if signals:
                enough.set()
            if len(signals) > 1 or (signals and server.state in ("new", "starting")):
                kill.begin()
        if kill.begun:
            kill.wait(None)
    if work.error is not None and not kill.begun:
        emit(error_event(work.error))
        return int(error_event(work.error)["code"])
    if files:
        emit({"event": "profile", "files": files})
    return INTERRUPTED if signals[:1] == [signal.SIGINT] else OK


class _Wakeups:
    """What wakes the main thread: signals, by their number, and threads, by 0."""

    def __init__(self) -> None:
        self._readable, self._writable = os.pipe()
        for descriptor in (self._readable, self._writable):
            os.set_blocking(descriptor, False)

    @classmethod
    @contextlib.contextmanager
    def installed(cls) -> Iterator[_Wakeups]:
        """Hear SIGTERM, SIGHUP and SIGINT while this lasts; none of them does anything else.

        One that was ignored stays ignored: `nohup` does that with SIGHUP, a shell with SIGINT for what is behind `&`.
        """
        wakeups = cls()
        before_fd = signal.set_wakeup_fd(wakeups._writable)
        heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        before = {number: signal.signal(number, lambda *_: None) for number in heard}
        try:
            yield wakeups
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            os.close(wakeups._readable)
            # The other end stays open for threads that still have something to say; this process is about to end.

    def wake(self) -> None:
        """Wake the main thread, from any other."""
        with contextlib.suppress(OSError):  # full: it will wake
            os.write(self._writable, b"\0")

    def wait(self) -> list[int]:
        """Wait until something wakes; return the signals that came."""
        select.select([self._readable], [], [])
        return [number for number in os.read(self._readable, 4096) if number in SIGNALS]


SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class _Service:
    """One life of a fleet under the command."""

    def __init__(self, fleet: Fleet, emit: Emit, wakeups: _Wakeups) -> None:
        self._fleet = fleet
        self._emit = emit
        self._wakeups = wakeups
        self._signals: list[int] = []
        self._began = time.monotonic()
        self._start = _Work(fleet.start, wakeups)
        self._stop = _Work(self._stop_all, wakeups)
        self._kill = _Work(fleet.kill, wakeups)
        for index, server in enumerate(fleet.servers):
            server.owned_by = COMMAND
            server.on_phase = functools.partial(self._tell_phase, index)
            server.on_change = self._listener(index, server.on_change)

    def run(self) -> int:
        """Serve until the end; return the exit code."""
        every = range(len(self._fleet.servers))
        self._emit({"event": "starting", "servers": [self._description(index) for index in every]})
        self._start.begin()
        announced = False
        while not self._stop.done:
            self._signals += self._wakeups.wait()
            if self._signals:
                self._stop.begin()
            if len(self._signals) > 1:
                self._kill.begin()
            if not self._start.done or self._stop.begun:
                continue
            if self._start.error is not None:
                self._emit(error_event(self._start.error))
                return int(error_event(self._start.error)["code"])
            if not announced:
                announced = True
                self._announce()
            if self._fleet.has_ended:
                self._stop.begin()
        return self._end(announced)

    def _stop_all(self) -> None:
        """Stop everything; a start that is under way ends too, even if it had not launched anything yet."""
        while True:
            self._fleet.stop()
            if self._start.wait(LOOK_SECONDS):
                break
        self._fleet.stop()

    def _end(self, announced: bool) -> int:
        if self._kill.begun:
            self._kill.wait(None)
        code = OK
        if self._stop.error is not None:
            self._emit(error_event(self._stop.error))
            code = int(error_event(self._stop.error)["code"])
        reports = [
            {"name": self._fleet.name_of(index), **stop_values(server.stop_report)}
            for index, server in enumerate(self._fleet.servers)
            if server.stop_report is not None
        ]
        self._emit({"event": "stopped", "servers": reports})
        if self._signals[:1] == [signal.SIGINT]:
            return INTERRUPTED
        return code or (self._code_of_deaths() if announced else OK)

    def _code_of_deaths(self) -> int:
        """Return the exit code for servers that ended by themselves: by the first cause that a log has."""
        records = [server.run_file.record for server in self._fleet.servers]
        causes = [record.error["cause"] for record in records if record is not None and record.error]
        if not causes:
            return OK
        code = BY_CAUSE[Cause(causes[0])]
        return ENDED if code == FAILED else code

    def _announce(self) -> None:
        serving = [index for index, server in enumerate(self._fleet.servers) if server.is_running]
        self._emit({"event": "ready", "servers": [self._description(index) for index in serving]})

    def _description(self, index: int) -> dict[str, Any]:
        server = self._fleet.servers[index]
        return {
            "name": self._fleet.name_of(index),
            "model": server.model,
            "url": server.server_url,
            "port": server.port,
            "output_dir": os.path.abspath(server.output_dir),
            "owner_pid": os.getpid(),
        }

    def _tell_phase(self, index: int, phase: str) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        self._emit({"event": "phase", "server": self._fleet.name_of(index), "phase": phase, "seconds": seconds})

    def _listener(self, index: int, inner: Callable[[str], None] | None) -> Callable[[str], None]:
        server = self._fleet.servers[index]
        states = [server.state]

        def changed(state: str) -> None:
            is_ready_again = (states[-1], state) == ("starting", "ready") and self._start.done
            states[:] = [state]
            ended = state == "dead" and server.phase == "ready" and not self._stop.begun
            if inner is not None:
                # Before the event: who reads it may end this process at once, and the log is to have its line.
                inner(state)
            if ended:
                record = server.run_file.record
                error = record.error if record else None
                name = self._fleet.name_of(index)
                self._emit({"event": "ended", "server": name, "error": error, "restarts": server.is_restarting})
            if is_ready_again:
                self._emit({"event": "ready", "servers": [self._description(index)]})
            self._wakeups.wake()

        return changed


class _Work:
    """Something that is done once, on a thread, and wakes the main thread when it is done."""

    def __init__(self, action: Callable[[], Any], wakeups: _Wakeups) -> None:
        self.error: Exception | None = None
        self.begun = False
        self._action = action
        self._wakeups = wakeups
        self._finished = threading.Event()

    def begin(self) -> None:
        """Begin, unless it was begun before."""
        if not self.begun:
            self.begun = True
            threading.Thread(target=self._do, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._finished.is_set()

    def wait(self, timeout: float | None) -> bool:
        """Wait for the end; return whether that came."""
        return self._finished.wait(timeout)

    def _do(self) -> None:
        try:
            self._action()
        except Exception as error:  # noqa: BLE001 - the main thread says it, whatever it is
            self.error = error
        finally:
            self._finished.set()
            self._wakeups.wake()


def _never_raising(emit: Emit) -> Emit:
    """Return an `emit` for several threads that stays silent when nothing reads any more."""
    lock = threading.Lock()

    def safe(event: Event) -> None:
        with lock, contextlib.suppress(OSError):
            emit(event)

    return safe

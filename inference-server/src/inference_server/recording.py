"""Records a window of an engine's life with its profiler, and does not return before the files are written.

`server` makes a `Recording` of the plan that `profiling.window_of` returns. A file is taken for written when it is not
empty, does not grow, and no process of the engine has it open: SGLang answers a stop before it has written anything. A
profile without a file is a `ProfileError` with what the engine or the tool printed.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Mapping, Sequence

from inference_server import http_check
from inference_server.errors import ProfileError
from inference_server.profiling import NSYS_REPORT, Arrangement, Window

ABANDON_SECONDS = 5.0
"""How long an engine has to take note that a recording is given up."""

START_SECONDS = 60.0
"""How long an engine or nsys may take to begin."""

QUIET_SECONDS = 1.0
"""How long files must not have changed. An engine of several ranks writes one after the other."""

PAUSE = 0.1
MAX_FILES = 10000
"""Of a folder that are looked at."""

MAX_WORDS = 2000
"""Characters of what an engine or a tool says that go into an error."""

Files = Mapping[str, "tuple[int, int]"]
"""Size in bytes and time of change of each file in a folder, by its path."""


@dataclass
class Profile:
    """A window of a server's life that is being recorded, or was.

    Attributes:
        name: as the caller named it.
        files: what was written; empty until the window has ended.
        seconds: how long was recorded.
    """

    name: str
    files: tuple[Path, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Target:
    """The engine, as a recording needs it."""

    url: str
    headers: Mapping[str, str]
    environment: Mapping[str, str]
    is_alive: Callable[[], bool]
    pids: Callable[[], Sequence[int]]
    seconds: float = 600.0
    """How long the engine or the tool may take to end a recording."""


def files_in(folder: str) -> Files:
    """Return the files of a folder and of those in it; an empty answer if it cannot be read."""
    found: dict[str, tuple[int, int]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            try:
                status = os.stat(path)
            except OSError:
                continue
            found[path] = (status.st_size, status.st_mtime_ns)
            if len(found) >= MAX_FILES:
                return found
    return found


def changed(before: Files, now: Files, suffix: str = "") -> dict[str, int]:
    """Return the sizes of the files that are new or changed. Pure."""
    return {path: state[0] for path, state in now.items() if before.get(path) != state and path.endswith(suffix)}


def is_complete(sizes: Mapping[str, int], expected: int, still_open: frozenset[str]) -> bool:
    """Whether these files look as if nothing more was to be written. Pure."""
    return sum(size > 0 for size in sizes.values()) >= expected and still_open.isdisjoint(sizes)


def open_files(pids: Sequence[int]) -> frozenset[str]:
    """Return what these processes have open. Off Linux nothing is known, and the answer is empty."""
    found = set()
    for pid in pids:
        folder = "/proc/%d/fd" % pid
        try:
            descriptors = os.listdir(folder)
        except OSError:
            continue
        for descriptor in descriptors:
            try:
                found.add(os.readlink("%s/%s" % (folder, descriptor)))
            except OSError:
                continue
    return frozenset(found)


class Recording:
    """One window. `begin` and `end` may be called from any thread; a second `end` returns what the first one did."""

    def __init__(
        self, window: Window, target: Target, program: str, arrangement: Arrangement, profile: Profile
    ) -> None:
        """`program` and `arrangement` are those of the profiler that the engine was launched under."""
        self._window = window
        self._target = target
        self._program = program
        self._arrangement = arrangement
        self.profile = profile
        self._before: Files = {}
        self._began = 0.0
        self._ended = False
        self._error: ProfileError | None = None
        self._report = ""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Begin to record.

        Raises:
            ProfileError: the engine or the tool does not.
        """
        os.makedirs(self._window.folder, exist_ok=True)
        self._before = files_in(self._window.folder)
        if self._window.how == "session":
            self._report = self._free_report()
            self._nsys("start", "--output=" + self._report, *self._arrangement.start_words, seconds=START_SECONDS)
        elif self._window.path:
            self._post("/start", self._window.body, START_SECONDS)
        self._began = time.monotonic()

    def end(self) -> None:
        """Stop recording and wait for the files; then they are in `profile.files`.

        Raises:
            ProfileError: there is no file, or only an empty one; or the engine ended before.
        """
        with self._lock:
            if not self._ended:
                self._ended = True
                self.profile.seconds = time.monotonic() - self._began
                try:
                    self._end()
                except ProfileError as error:
                    self._error = error
            if self._error is not None:
                raise self._error

    def abandon(self) -> None:
        """Stop recording and wait for nothing, as after Ctrl-C: the engine must not go on recording."""
        with self._lock, contextlib.suppress(ProfileError):
            if not self._ended:
                self._ended = True
                self._error = ProfileError("the recording was given up")
                if self._window.how == "session":
                    self._nsys("stop", seconds=ABANDON_SECONDS)
                elif self._window.path:
                    self._post("/stop", {}, ABANDON_SECONDS)

    def _end(self) -> None:
        if self._window.how == "session":
            output = self._nsys("stop", seconds=self._target.seconds)
            if not files_in(os.path.dirname(self._report)).get(self._report, (0, 0))[0]:
                raise ProfileError("nsys left no file %s%s" % (self._report, _that_said(output)))
            self.profile.files = (Path(self._report),)
        elif self._window.path:
            # vLLM answers when everything is written, which takes minutes for a long trace.
            self._post("/stop", {}, self._target.seconds)
            if self._window.how == "routes":
                self.profile.files = self._wait_for_files()

    def _wait_for_files(self) -> tuple[Path, ...]:
        quiet_since = time.monotonic()
        until = quiet_since + self._window.seconds
        last: dict[str, int] = {}
        while True:
            alive = self._target.is_alive()
            sizes = changed(self._before, files_in(self._window.folder))
            now = time.monotonic()
            if sizes != last:
                last, quiet_since = sizes, now
            quiet = now - quiet_since >= QUIET_SECONDS
            complete = is_complete(sizes, self._window.expected, open_files(self._target.pids()))
            if (quiet and complete) or not alive or now >= until:
                break
            time.sleep(PAUSE)
        written = tuple(Path(path) for path, size in sorted(sizes.items()) if size > 0)
        # When the time is over, fewer files than there are ranks are still those that came.
        if written and (alive or complete):
            return written
        raise ProfileError(
            "the profiler of %s left %s in %s%s"
            % (
                self._target.url,
                "no complete file" if written else "only empty files" if sizes else "no file",
                self._window.folder,
                "" if alive else ": the engine ended before it was written",
            )
        )

    def _free_report(self) -> str:
        output = self._arrangement.output
        base = os.path.abspath(output or os.path.join(self._window.folder, self.profile.name or "profile"))
        candidates = [base + NSYS_REPORT, *("%s-%d%s" % (base, number, NSYS_REPORT) for number in range(2, MAX_FILES))]
        return next(each for each in candidates if not os.path.exists(each))

    def _nsys(self, action: str, *words: str, seconds: float) -> str:
        """Run `nsys start` or `nsys stop`; return what it printed. To nsys, a missing session may be no error."""
        command = [self._program, action, "--session=" + self._arrangement.session, *words]
        try:
            done = subprocess.run(  # noqa: S603 - the profiler that the caller chose
                command,
                env=dict(self._target.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise ProfileError(
                "`nsys %s` did not end in %g s: raise profile.stop_timeout" % (action, seconds)
            ) from None
        except OSError as error:
            raise ProfileError("cannot run %s: %s" % (command[0], error)) from error
        output = done.stdout[-MAX_WORDS:].decode("utf-8", "replace").strip()
        if done.returncode != 0:
            raise ProfileError("`nsys %s` ended with code %d%s" % (action, done.returncode, _that_said(output)))
        return output

    def _post(self, prefix: str, body: Mapping[str, object], seconds: float) -> None:
        path = prefix + self._window.path
        answer = http_check.post(self._target.url + path, body, seconds, self._target.headers)
        if answer is None:
            reason = "no answer in %g s" % seconds if self._target.is_alive() else "the engine has ended"
            raise ProfileError("%s: %s" % (path, reason))
        if answer.status == 404:
            raise ProfileError("%s: the engine has no profiler: it was not started with one" % path)
        if answer.status in (401, 403):
            raise ProfileError("%s: the engine wants another key (--api-key, --admin-api-key)" % path)
        if answer.status == 409:
            raise ProfileError("%s: a profile is being recorded already" % path)
        if answer.status != 200:
            raise ProfileError("%s: answered %d%s" % (path, answer.status, _that_said(answer.text[:MAX_WORDS])))


def run_files(folder: str, before: Files, suffix: str) -> tuple[Path, ...]:
    """Return what a tool wrote that records the whole life of an engine.

    Raises:
        ProfileError: it left no file, or only empty ones.
    """
    sizes = changed(before, files_in(folder), suffix)
    written = tuple(Path(path) for path, size in sorted(sizes.items()) if size > 0)
    if not written:
        raise ProfileError("the profiler left %s in %s" % ("only empty files" if sizes else "no file", folder))
    return written


def _that_said(output: str) -> str:
    return ", and said: " + output if output else ""

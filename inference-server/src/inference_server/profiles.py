"""The profiler of one life of a server: how the engine is launched under it, and what it has recorded.

`server` makes one for each start and asks it to arrange the command, to begin and end recordings, and to find the files
of the whole life after the stop. `profiling` decides, `recording` records.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Sequence

from inference_server.errors import ProfileError
from inference_server.profiling import Arrangement, ProfileSettings, Window, arrange, programs, window_of
from inference_server.recording import Files, Profile, Recording, Target, files_in, run_files

ALREADY = "a profile is being recorded already"


class Profiles:
    """The profiler of one life of a server."""

    def __init__(self, settings: ProfileSettings | None, engine: str, default_dir: str) -> None:
        """`settings` None: there is no profiler around the engine. `default_dir` is absolute."""
        self.settings = settings
        self.arrangement = Arrangement()
        self._engine = engine
        self._default_dir = default_dir
        self._program = ""
        self._before: Files = {}
        self._recording: Recording | None = None
        self._whole_life: Recording | None = None
        self._count = 0

    @property
    def stop_seconds(self) -> float:
        """How long the profiler may take to write after the engine's end."""
        return self.settings.stop_timeout if self.settings is not None and self.arrangement.wraps else 0.0

    def arrange(
        self,
        command: Sequence[str],
        environment: dict[str, str],
        words: Sequence[str],
        version: tuple[int, ...] | None,
        session: str,
    ) -> list[str]:
        """Return the command under the profiler, and put into the environment what it needs.

        Raises:
            ProfileError: the profiler is not there.
        """
        settings = self.settings
        if settings is None:
            return list(command)
        candidates = programs(settings)
        path = environment.get("PATH", os.defpath)
        program = next((each for each in candidates if shutil.which(each, path=path)), None)
        if candidates and program is None:
            raise ProfileError("none of %s is on PATH: install it, or set profile.binary_path" % ", ".join(candidates))
        os.makedirs(settings.output_dir, exist_ok=True)
        self._program = program or ""
        self.arrangement = arrange(settings, self._engine, self._program, words, version, session)
        if self.arrangement.folder is not None:
            self._before = files_in(os.path.abspath(self.arrangement.folder))
        environment.update(self.arrangement.variables)
        return [*self.arrangement.prefix, *command, *self.arrangement.arguments]

    def plan(self, name: str, words: Sequence[str], *, running: bool) -> Window:
        """Return how a window would be recorded.

        Raises:
            ProfileError: there is no way, or something is being recorded.
        """
        if self._whole_life is not None:
            raise ProfileError("the engine's whole life is being recorded: leave out profile.record")
        if self._recording is not None:
            raise ProfileError(ALREADY)
        return window_of(self.settings, self.arrangement, self._engine, words, self._default_dir, name, running=running)

    def begin(self, profile: Profile, target: Target, words: Sequence[str], *, running: bool) -> Recording:
        """Begin to record a window.

        Raises:
            ProfileError: there is no way, or the engine or the tool does not.
        """
        window = self.plan(profile.name, words, running=running)
        current = Recording(window, target, self._program, self.arrangement, profile)
        current.begin()
        self._recording = current
        self._count += 1
        return current

    def forget(self, current: Recording) -> None:
        """The block of a recording has ended."""
        if self._recording is current:
            self._recording = None

    def begin_whole_life(self, target: Target, words: Sequence[str]) -> None:
        """When the server is ready: begin what the PyTorch profiler is to record until the stop.

        Raises:
            ProfileError: the engine does not.
        """
        if self.settings is not None and self.settings.tool == "pytorch" and self.settings.record == "run":
            self._whole_life = self.begin(Profile(""), target, words, running=True)
            self._recording = None

    def end(self) -> str:
        """Before a stop, by which it would be lost: end what is being recorded; return what went wrong, for a log."""
        for current in (self._recording, self._whole_life):
            if current is not None:
                try:
                    current.end()
                except ProfileError as error:
                    return str(error)
        return ""

    def collect(self) -> tuple[Path, ...]:
        """After a stop, return the files of the engine's whole life.

        Raises:
            ProfileError: there is none, though it was to be recorded.
        """
        if self._whole_life is not None:
            self._whole_life.end()
            return self._whole_life.profile.files
        folder = self.arrangement.folder
        return run_files(os.path.abspath(folder), self._before, self.arrangement.suffix) if folder is not None else ()

    @property
    def recorded_nothing(self) -> bool:
        """Whether there is a profiler that nobody asked to record."""
        return self.settings is not None and self.settings.record == "windows" and self._count == 0

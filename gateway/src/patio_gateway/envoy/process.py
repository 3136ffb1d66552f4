"""Envoy as a process that outlives whoever started it.

It is in a session of its own, so that Ctrl-C and the end of the control reach the control alone. A control that starts
again finds it by its administration's socket, and takes it as it is where the bootstrap is the same. Stopping drains:
requests go on until they end or the time is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patio_gateway.envoy.admin import Admin, AdminError
from patio_gateway.envoy.files import write_changed

log = logging.getLogger(__name__)

START_SECONDS = 30.0
"""How long Envoy may take until it serves."""

MOST_SILENCE = 6
"""Looks at an Envoy that ran before, half a second apart, after which it counts as ended."""


class EnvoyFailedError(Exception):
    """Envoy did not start, or ended by itself. The text says what it wrote last."""


def _require_free(listen: tuple[str, int]) -> None:
    """Raise `EnvoyFailedError` if somebody listens there: Envoy would share the port with another Envoy."""
    family = socket.AF_INET6 if ":" in listen[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(listen)
        except OSError as error:
            raise EnvoyFailedError(f"Envoy cannot listen on {listen[0]} port {listen[1]}: {error.strerror}.") from error


@dataclass(frozen=True)
class _Bootstrap:
    text: str
    name: str = "bootstrap.json"


class Envoy:
    """Envoy's process and what it takes to start and end it."""

    def __init__(self, program: str, folder: Path, admin: Admin, threads: int) -> None:
        self._program = program
        self._folder = folder
        self._admin = admin
        self._threads = threads
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def adopted(self) -> bool:
        """Whether it ran before."""
        return self._process is None

    async def start(self, bootstrap: Mapping[str, Any], listen: tuple[str, int]) -> None:
        """Start Envoy, or take the one that runs with this bootstrap; return when it serves at `listen`.

        Raises:
            EnvoyFailedError: the port is taken, or Envoy ended, or does not serve in time.

        """
        changed = write_changed(self._folder, [_Bootstrap(json.dumps(bootstrap, indent=1, sort_keys=True))])
        if await self._admin.serves():
            if not changed:
                log.info("envoy_adopted folder=%s", self._folder)
                return
            log.info("envoy_replaced folder=%s reason=%s", self._folder, json.dumps("its settings changed"))
            await self.stop(seconds=5.0)
        _require_free(listen)
        self._process = self._spawned()
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while not await self._admin.serves():
            self.check()
            if asyncio.get_running_loop().time() > deadline:
                self._process.kill()
                self._process.wait()
                raise EnvoyFailedError(f"Envoy did not serve within {START_SECONDS:.0f} s. {self._last_words()}")
            await asyncio.sleep(0.05)
        log.info("envoy_started pid=%d folder=%s", self._process.pid, self._folder)

    def _spawned(self) -> subprocess.Popen[bytes]:
        with (self._folder / "envoy.log").open("wb") as stream:
            return subprocess.Popen(  # noqa: S603
                [
                    self._program,
                    "--config-path",
                    str(self._folder / "bootstrap.json"),
                    "--concurrency",
                    str(self._threads),
                    "--disable-hot-restart",
                    "--drain-time-s",
                    "5",
                    "--file-flush-interval-msec",
                    "1000",
                    "--log-level",
                    "warning",
                ],
                stdin=subprocess.DEVNULL,
                stderr=stream,
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise `EnvoyFailedError` if the process that was started here has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise EnvoyFailedError(f"Envoy ended with {self._process.returncode}. {self._last_words()}")

    async def watch(self) -> None:
        """Return never; raise `EnvoyFailedError` when Envoy has ended."""
        silent = 0
        while True:
            self.check()
            if self.adopted:
                # It is nobody's child here, so its silence has to do.
                silent = 0 if await self._admin.serves() else silent + 1
                if silent >= MOST_SILENCE:
                    raise EnvoyFailedError(f"Envoy, which was running already, does not answer. {self._last_words()}")
            await asyncio.sleep(0.5)

    def signal(self, number: int) -> None:
        """Send a signal to the process that was started here."""
        if self._process is not None:
            self._process.send_signal(number)

    async def stop(self, seconds: float) -> None:
        """End Envoy: once no request is on its way, or after so many seconds."""
        try:
            await self._admin.drain()
            active = await self._still_active(seconds)
            if active:
                log.warning("envoy_drained_late requests=%d seconds=%.0f", active, seconds)
            await self._admin.quit()
        except AdminError as error:
            log.warning("envoy_drain_failed error=%s", json.dumps(str(error)))
        await self._ended()

    async def _still_active(self, seconds: float) -> int:
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            active = await self._admin.active_requests()
            if not active or asyncio.get_running_loop().time() > deadline:
                return active
            await asyncio.sleep(0.05)

    async def _ended(self) -> None:
        for _ in range(100):
            if self._process is not None:
                if self._process.poll() is not None:
                    return
            elif not await self._admin.serves():
                return
            await asyncio.sleep(0.05)
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / "envoy.log").read_bytes()[-4096:].decode("utf-8", "replace").splitlines()
            return "Its last words: " + " ".join(lines[-3:])
        return ""

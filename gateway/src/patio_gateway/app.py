"""The gateway on one machine: Envoy, what tells it of models and pods, and the front, in one program.

A source publishes snapshots; each of them becomes files, Envoy takes them, and only then does the front know of it: a
request that the front sends back to Envoy finds the pod there. Envoy goes on when this program dies. It ends when this
program is asked to end, after the requests that are on their way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import uvicorn

from patio_gateway.control.bootstrap import Listening, bootstrap
from patio_gateway.control.resources import CLUSTERS, File, clusters_in, keeping, resources
from patio_gateway.envoy.admin import Admin, AdminError
from patio_gateway.envoy.files import make_folder, remove_others, write_changed
from patio_gateway.envoy.process import Envoy
from patio_gateway.front.app import FrontApp, Limits, build
from patio_gateway.front.server import config as front_config
from patio_gateway.snapshot import Snapshot

log = logging.getLogger(__name__)

WRITE_AGAIN_SECONDS = 1.0
"""Pause before files that could not be written are tried again."""

TAKEN_SECONDS = 5.0
"""How long Envoy may take to read its files."""

OLD_FILES = ("endpoints-*.json", "program-*.lua", ".*.new")


class Source(Protocol):
    """Where snapshots come from."""

    async def run(self, publish: Callable[[Snapshot], Awaitable[None]]) -> None:
        """Publish snapshots, for ever."""


class Knowledge:
    """What the front knows: the newest snapshot that Envoy has."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._listeners: list[Callable[[Snapshot], None]] = []

    def subscribe(self, listener: Callable[[Snapshot], None]) -> None:
        """Call `listener` with each new snapshot."""
        self._listeners.append(listener)

    def publish(self, snapshot: Snapshot) -> None:
        """Take a new snapshot."""
        self.snapshot = snapshot
        for listener in self._listeners:
            listener(snapshot)


@dataclass(frozen=True)
class Settings:
    """What a person sets."""

    listening: Listening = field(default_factory=Listening)
    program: str = "envoy"
    threads: int = 2
    drain_seconds: float = 30.0


class Control:
    """Carries snapshots to Envoy."""

    def __init__(self, listening: Listening, admin: Admin, knowledge: Knowledge) -> None:
        self._listening = listening
        self._folder = Path(listening.folder)
        self._admin = admin
        self._knowledge = knowledge

    def prepare(self) -> None:
        """Write the files of a gateway that knows nothing, where there are none: Envoy does not start without."""
        if not (self._folder / "program.json").exists():
            write_changed(self._folder, resources(Snapshot(), self._listening))

    async def publish(self, snapshot: Snapshot) -> None:
        """Give Envoy a snapshot, wait until it has it, and then give it to the front.

        While the folder cannot be written (a full disk), Envoy and the front go on with the snapshot before, and this
        tries again.
        """
        reported = None
        while True:
            try:
                await self._publish(snapshot)
                return
            except OSError as error:
                if str(error) != reported:
                    reported = str(error)
                    log.error("snapshot_not_written error=%s", json.dumps(reported))
            await asyncio.sleep(WRITE_AGAIN_SECONDS)

    async def _publish(self, snapshot: Snapshot) -> None:
        """Publish a snapshot; raise `OSError`, and then the front has not got it."""
        clusters = self._folder / CLUSTERS
        before = clusters_in(clusters.read_text()) if clusters.exists() else []
        files = resources(snapshot, self._listening)
        written = await self._carried_out(keeping(files, before))
        # No request is on its way to a cluster that no program names.
        written += await self._carried_out(files)
        remove_others(self._folder, (file.name for file in files), OLD_FILES)
        if written:
            log.info(
                "snapshot_applied files=%d models=%d workers=%d",
                len(written),
                len(snapshot.models),
                sum(len(model.workers) for model in snapshot.models),
            )
        self._knowledge.publish(snapshot)

    async def _carried_out(self, files: tuple[File, ...]) -> list[str]:
        written = write_changed(self._folder, files)
        try:
            late = await self._admin.wait_until_taken(files, TAKEN_SECONDS) if written else []
        except AdminError as error:
            late = [str(error)]
        if late:
            log.error("envoy_refused readers=%s", json.dumps(late[:20]))
        return written


async def run(settings: Settings, source: Source) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Raises:
        EnvoyFailedError: Envoy did not start, or ended by itself.
        OSError: the folder cannot be written.

    """
    folder = Path(settings.listening.folder)
    make_folder(folder)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    knowledge = Knowledge()
    async with Admin(settings.listening.admin_socket) as admin:
        control = Control(settings.listening, admin, knowledge)
        control.prepare()
        envoy = Envoy(settings.program, folder, admin, settings.threads)
        front_app = build(knowledge, limits=Limits(most_body=settings.listening.most_body))
        front = _front_server(front_app, settings.listening.front_socket)
        serving = asyncio.create_task(front.serve())
        try:
            await envoy.start(bootstrap(settings.listening), settings.listening.listen)
            host, port = settings.listening.listen
            log.info("gateway_started address=%s", json.dumps(f"http://{host}:{port}"))
            await _until(stop, source.run(control.publish), envoy.watch())
        finally:
            log.info("gateway_stopping drain_seconds=%.0f", settings.drain_seconds)
            front_app.stop_holding()
            await envoy.stop(settings.drain_seconds)
            front.should_exit = True
            await serving


async def _until(stop: asyncio.Event, *work: Awaitable[None]) -> None:
    """Run these until `stop` is set; raise what one of them raises."""
    tasks = [asyncio.ensure_future(task) for task in work]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in [*tasks, stopping]:
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)


class SignalFreeServer(uvicorn.Server):
    """A server that leaves signals to the program that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield


def _front_server(app: FrontApp, front_socket: str) -> uvicorn.Server:
    Path(front_socket).unlink(missing_ok=True)
    return SignalFreeServer(front_config(app, front_socket))

"""The gateway on one machine: Envoy, what tells it of models and pods, and the front, in one program.

A source publishes snapshots; each of them becomes files, Envoy takes them, and only then does the front know of it: a
request that the front sends back to Envoy finds the pod there. Envoy goes on when this program dies. It ends when this
program is asked to end, after the requests that are on their way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import uvicorn

from patio_gateway.control.bootstrap import Listening, bootstrap
from patio_gateway.control.metrics import DEMAND, traffic_in
from patio_gateway.control.resources import CLUSTERS, File, clusters_in, keeping, resources
from patio_gateway.demand_reports.report import Traffic, Waiting
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

LAST_REPORT_SECONDS = 2.0
"""How long the last report of the demand may take."""

LATE_SECONDS = 1.0
"""Between two looks whether Envoy has taken the first snapshot after all."""

OLD_FILES = ("endpoints-*.json", "program-*.lua", ".*.new")


class Source(Protocol):
    """Where snapshots come from."""

    async def run(self, publish: Callable[[Snapshot], Awaitable[None]]) -> None:
        """Publish snapshots, for ever."""


class Reporter(Protocol):
    """Reports the demand."""

    async def run(self, demands: Demands) -> None:
        """Report, for ever."""

    async def finish(self, demands: Demands) -> None:
        """Report for the last time, when Envoy has ended."""


class Knowledge:
    """What the front knows: the newest snapshot that Envoy has."""

    def __init__(self) -> None:
        self.snapshot = Snapshot()
        self._ready = asyncio.Event()
        self._listeners: list[Callable[[Snapshot], None]] = []

    @property
    def ready(self) -> bool:
        """Whether a source has published a snapshot, and Envoy has taken it."""
        return self._ready.is_set()

    async def wait_until_ready(self) -> None:
        """Return once it is."""
        await self._ready.wait()

    def subscribe(self, listener: Callable[[Snapshot], None]) -> None:
        """Call `listener` with each new snapshot."""
        self._listeners.append(listener)

    def publish(self, snapshot: Snapshot, taken: bool = True) -> None:
        """Take a new snapshot, and whether Envoy has taken it."""
        self.snapshot = snapshot
        if taken:
            self._ready.set()
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
        self._files: tuple[File, ...] = ()

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
        self._files = files = resources(snapshot, self._listening)
        written, late = await self._carried_out(keeping(files, before))
        # No request is on its way to a cluster that no program names.
        more, later = await self._carried_out(files)
        written += more
        remove_others(self._folder, (file.name for file in files), OLD_FILES)
        if written:
            log.info(
                "snapshot_applied files=%d models=%d workers=%d",
                len(written),
                len(snapshot.models),
                sum(len(model.workers) for model in snapshot.models),
            )
        self._knowledge.publish(snapshot, taken=not (late or later))

    async def watch(self) -> None:
        """Have the gateway ready once Envoy has taken a snapshot, however late that is; never return."""
        while not self._knowledge.ready:
            await asyncio.sleep(LATE_SECONDS)
            with contextlib.suppress(AdminError):
                if self._files and not await self._admin.missing(self._files):
                    self._knowledge.publish(self._knowledge.snapshot)
        await asyncio.Event().wait()

    async def _carried_out(self, files: tuple[File, ...]) -> tuple[list[str], list[str]]:
        """Write the files that changed; return their names, and who has not taken them."""
        written = write_changed(self._folder, files)
        try:
            must_ask = bool(written) or not self._knowledge.ready
            late = await self._admin.wait_until_taken(files, TAKEN_SECONDS) if must_ask else []
        except AdminError as error:
            late = [str(error)]
        if late:
            log.error("envoy_refused readers=%s", json.dumps(late[:20]))
        return written, late


class Demands:
    """The demand for models, from the front and from Envoy."""

    def __init__(self, front: FrontApp, admin: Admin, knowledge: Knowledge) -> None:
        self._front = front
        self._admin = admin
        self._knowledge = knowledge
        self._version = -1

    async def changed(self, seconds: float) -> None:
        """Wait until more or less is held than at the last call, or for some seconds."""
        await self._front.demand_changed(self._version, seconds)
        self._version = self._front.demand_version

    def waiting(self) -> Mapping[str, Waiting]:
        """Return what the front knows, by ModelEndpoint."""
        return {each.endpoint: Waiting(each.held, each.last_activity) for each in self._front.demand()}

    async def traffic(self) -> Traffic | None:
        """Return what Envoy counts; None: it does not answer."""
        try:
            return Traffic(*traffic_in(await self._admin.prometheus(DEMAND)))
        except AdminError as error:
            log.warning("demand_unknown error=%s", json.dumps(str(error)))
            return None

    def endpoints(self) -> Iterable[str]:
        """Return the ModelEndpoints that exist."""
        return [model.endpoint for model in self._knowledge.snapshot.models]


async def run(settings: Settings, source: Source, reporter: Reporter | None = None) -> None:
    """Run the gateway until SIGTERM or SIGINT.

    Args:
        settings: what a person set.
        source: where snapshots come from.
        reporter: who tells the demand; None: nobody reads it.

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
        demands = Demands(front_app, admin, knowledge)
        reporting: asyncio.Task[None] | None = None
        try:
            await envoy.start(bootstrap(settings.listening), settings.listening.listen)
            host, port = settings.listening.listen
            log.info("gateway_started address=%s", json.dumps(f"http://{host}:{port}"))
            if reporter is not None:
                reporting = asyncio.create_task(_report(reporter, demands, knowledge))
            await _until(stop, source.run(control.publish), control.watch(), envoy.watch())
        finally:
            log.info("gateway_stopping drain_seconds=%.0f", settings.drain_seconds)
            front_app.stop_holding()
            await envoy.stop(settings.drain_seconds)
            if reporter is not None and reporting is not None:
                reporting.cancel()
                await asyncio.gather(reporting, return_exceptions=True)
                if knowledge.ready:
                    await _last_report(reporter, demands)
            front.should_exit = True
            await serving


async def _report(reporter: Reporter, demands: Demands, knowledge: Knowledge) -> None:
    """Report once it is known which models there are: before that, an empty report would be a false one."""
    await knowledge.wait_until_ready()
    await reporter.run(demands)


async def _last_report(reporter: Reporter, demands: Demands) -> None:
    try:
        async with asyncio.timeout(LAST_REPORT_SECONDS):
            await reporter.finish(demands)
    except TimeoutError:
        log.warning("last_report_late seconds=%.0f", LAST_REPORT_SECONDS)


async def _until(stop: asyncio.Event, *work: Awaitable[None]) -> None:
    """Run these until `stop` is set; raise what one of them raises."""
    tasks = [asyncio.ensure_future(task) for task in work]
    stopping = asyncio.ensure_future(stop.wait())
    try:
        done, _ = await asyncio.wait([*tasks, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            if (error := task.exception()) is not None:
                raise _cause(error)
    finally:
        for task in [*tasks, stopping]:
            task.cancel()
        await asyncio.gather(*tasks, stopping, return_exceptions=True)


def _cause(error: BaseException) -> BaseException:
    """Return what a group of tasks failed by."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class SignalFreeServer(uvicorn.Server):
    """A server that leaves signals to the program that it is a part of."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals as they are."""
        yield


def _front_server(app: FrontApp, front_socket: str) -> uvicorn.Server:
    Path(front_socket).unlink(missing_ok=True)
    return SignalFreeServer(front_config(app, front_socket))

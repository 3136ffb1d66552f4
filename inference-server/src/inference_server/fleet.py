"""Several servers of one machine: ports and GPUs dealt out, started together, stopped together.

A server that does not start ends the start of the fleet: the others are stopped, and the error says which failed, why,
and which were stopped for it. With `minimum` the fleet serves with fewer. A server that ends later takes none of its
neighbours along; the log says which one ended and how many serve.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Callable, Mapping, Sequence

from inference_server import ports
from inference_server.arguments import normalize_server_args
from inference_server.configuration import fleet_settings_from, merged, settings_from
from inference_server.dealing import PORT_DISTANCE, VISIBLE, Dealt, Wanted, deal, gpus_needed, own_gpus
from inference_server.errors import FleetStartupError, ServerStartupError
from inference_server.factory import server_from_config
from inference_server.preflight import gpus_in_use
from inference_server.server import InferenceServer
from inference_server.stopping import KILL_SECONDS, StopReport

LOOK_SECONDS = 1.0
"""How often a wait looks itself, in case that no server says anything."""


class Fleet:
    """Several servers as one: `with Fleet([...]) as fleet: fleet.servers[0].server_url`.

    Attributes:
        servers: in their order.
        failures: the error of each server that did not start, by its index, where `minimum` let the others serve.
    """

    def __init__(self, servers: Sequence[InferenceServer], *, stagger: float = 0.0, minimum: int | None = None) -> None:
        if not servers:
            raise ValueError("a fleet needs a server")
        self.servers = tuple(servers)
        self.stagger = stagger
        self.minimum = len(self.servers) if minimum is None else minimum
        self.failures: dict[int, BaseException] = {}
        self.logger = logging.getLogger(type(self).__name__)
        self._changed = threading.Condition()
        self._ending = threading.Event()
        for index, server in enumerate(self.servers):
            server.on_change = self._listener(index, server.on_change)

    def name_of(self, index: int) -> str:
        """Return how messages name a server."""
        server = self.servers[index]
        place = "%s on port %d" % (server.get_backend_name(), server.port)
        return place if len(self.servers) == 1 else "server %d (%s)" % (index, place)

    @property
    def serving(self) -> tuple[InferenceServer, ...]:
        """The servers that are ready and have not ended."""
        return tuple(server for server in self.servers if server.is_running)

    @property
    def has_ended(self) -> bool:
        """Whether no server serves, and none is started again."""
        return not any(server.is_running or server.is_restarting for server in self.servers)

    # Start

    def start(self) -> None:
        """Start all servers at the same time, `stagger` seconds apart; return when they serve.

        Raises:
            FleetStartupError: fewer than `minimum` became ready, so none is left.
            InferenceServerError: the only server of the fleet failed, or another thread stopped the fleet.
        """
        self.failures = {}
        self._ending.clear()
        begun = [index for index, server in enumerate(self.servers) if not server.is_running]
        outcomes: dict[int, BaseException | None] = {}
        threads = [
            threading.Thread(
                target=self._start_one,
                args=(index, position * self.stagger, outcomes),
                name="inference-server-start-%d" % index,
                daemon=True,
            )
            for position, index in enumerate(begun)
        ]
        try:
            for thread in threads:
                thread.start()
            with self._changed:
                while len(outcomes) < len(begun) and not self._has_failed() and not self._ending.is_set():
                    self._changed.wait(LOOK_SECONDS)
        except BaseException:
            self._end_start(begun, threads)
            raise
        if self._ending.is_set():
            self._end_start(begun, threads)
            raise ServerStartupError("the servers were stopped while they started")
        if not self._has_failed():
            for index in self.failures:
                self.logger.error(
                    "%s did not start; %d of %d serve",
                    self.name_of(index),
                    len(self.servers) - len(self.failures),
                    len(self.servers),
                )
            return
        failed = dict(self.failures)
        self._end_start(begun, threads)
        if len(self.servers) == 1:
            raise failed[0]
        raise FleetStartupError(
            [(self.name_of(index), error) for index, error in sorted(failed.items())],
            [self.name_of(index) for index in range(len(self.servers)) if index not in failed],
            len(self.servers),
        )

    def _has_failed(self) -> bool:
        return len(self.servers) - len(self.failures) < self.minimum

    def _start_one(self, index: int, delay: float, outcomes: dict[int, BaseException | None]) -> None:
        error: BaseException | None = None
        if not self._ending.wait(delay):
            try:
                self.servers[index].start()
            except BaseException as raised:  # noqa: BLE001 - it is raised in the thread that started the fleet
                error = raised
        with self._changed:
            outcomes[index] = error
            if error is not None and not self._ending.is_set():
                self.failures[index] = error
            self._changed.notify_all()

    def _end_start(self, begun: Sequence[int], threads: Sequence[threading.Thread]) -> None:
        """Stop what began: bounded, and at once where a start is under way."""
        self._ending.set()
        left = [self.servers[index] for index in begun if index not in self.failures]
        try:
            self._each([server.stop for server in left if server.process is not None])
            for index, thread in zip(begun, threads):
                # A start that had not launched anything yet is ended when it has.
                while thread.is_alive():
                    if self.servers[index].process is not None:
                        self.servers[index].kill()
                    thread.join(0.05)
        except BaseException:
            self.kill()
            raise

    # Stop

    def stop(self) -> list[StopReport | None]:
        """Stop all servers at the same time; return what was done, in their order.

        Raises:
            CleanupError: what the first server that raised it said; the others are stopped all the same.
        """
        self._ending.set()
        reports: dict[int, StopReport | None] = {}

        def stop(index: int) -> None:
            reports[index] = self.servers[index].stop()

        started = [
            index
            for index, server in enumerate(self.servers)
            if server.process is not None and server.state != "stopped"
        ]
        try:
            errors = self._each([functools.partial(stop, index) for index in started])
        except BaseException:
            self.kill()
            raise
        if errors:
            raise errors[0]
        return [reports.get(index) for index in range(len(self.servers))]

    def kill(self) -> None:
        """End every process of every server at once."""
        self._ending.set()
        processes = [server.process for server in self.servers if server.process is not None]
        for process in processes:
            process.mark_stopping()
            process.kill()
        for process in processes:
            process.wait_until_gone(KILL_SECONDS)

    def _each(self, calls: Sequence[Callable[[], Any]]) -> list[BaseException]:
        """Make calls at the same time; return what they raised when all have ended."""
        errors: list[BaseException] = []

        def make(call: Callable[[], Any]) -> None:
            try:
                call()
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                errors.append(error)

        threads = [threading.Thread(target=make, args=(call,), daemon=True) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return errors

    # Watch

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until no server serves and none is started again; return whether that came."""
        with self._changed:
            return self._changed.wait_for(lambda: self.has_ended, timeout)

    def _listener(self, index: int, inner: Callable[[str], None] | None) -> Callable[[str], None]:
        def changed(state: str) -> None:
            if state == "dead" and not self._ending.is_set() and self.servers[index].phase == "ready":
                serving = len(self.serving)
                self.logger.error("%s ended; %d of %d serve", self.name_of(index), serving, len(self.servers))
            if inner is not None:
                inner(state)
            with self._changed:
                self._changed.notify_all()

        return changed

    def __enter__(self) -> Fleet:
        """Start the servers."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the servers."""
        self.stop()


def fleet_from_config(content: Mapping[str, Any]) -> Fleet:
    """Return the servers that a configuration describes, not started.

    `replicas: N` is N equal servers; `servers: [...]` has what differs, and shares the other keys. Ports and GPUs that
    are not named are dealt out; a port that several name is the first one's, and the others have the following ones.
    Each server of several writes its logs into a directory of its own. One server alone is left as it is described.

    Raises:
        ValueError: a key is missing or wrong, or there are too few GPUs or ports.
    """
    settings = fleet_settings_from(content)
    contents = list(settings.contents)
    if len(contents) > 1:
        contents = _apart(contents, list(gpus_in_use()), os.environ)
    return Fleet([server_from_config(each) for each in contents], stagger=settings.stagger, minimum=settings.minimum)


def start_many(contents: Sequence[Mapping[str, Any]], *, stagger: float = 0.0, minimum: int | None = None) -> Fleet:
    """Start the servers that several configurations describe, and return them when they serve."""
    fleet = fleet_from_config({"servers": list(contents), "stagger": stagger, "minimum": minimum})
    fleet.start()
    return fleet


def _apart(
    contents: Sequence[Mapping[str, Any]], gpus: Sequence[str], environment: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """Return configurations that do not get into each other's way."""
    variable = next((name for name in VISIBLE if name in environment), VISIBLE[0])
    gpus = own_gpus(environment) or gpus if variable in environment else gpus
    contents = _with_following_ports(contents)
    wanted = [_wanted(index, each) for index, each in enumerate(contents)]
    dealt = deal(wanted, gpus, ports.chosen_range(), ports.is_free, random.randrange(1 << 16))  # noqa: S311 - no secret
    return [_with_share(index, each, share, variable) for index, (each, share) in enumerate(zip(contents, dealt))]


def _with_following_ports(contents: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Let servers that name the same port have that one and those that follow, as far apart as the engine needs."""
    following: dict[int, int] = {}
    spread = []
    for each in contents:
        named = int(settings_from(each).arguments.get("port") or 0)
        if named:
            port = following.get(named, named)
            following[named] = port + PORT_DISTANCE.get(str(each.get("backend") or "vllm").lower(), 1)
            each = dict(each, port=port)
        spread.append(each)
    return spread


def _wanted(index: int, content: Mapping[str, Any]) -> Wanted:
    settings = settings_from(content)
    config = settings.arguments["config"]
    arguments = config.get("server_args") or config.get("api_server_args")
    words = settings.launch_command or normalize_server_args(arguments)
    engine = settings.backend.lower()
    return Wanted(
        name="server %d" % index,
        gpus=gpus_needed(engine, words),
        own_gpus=own_gpus({str(name): str(value) for name, value in (content.get("env_vars") or {}).items()}),
        port=int(settings.arguments.get("port") or 0),
        port_distance=PORT_DISTANCE.get(engine, 1),
    )


def _with_share(index: int, content: Mapping[str, Any], share: Dealt, variable: str) -> Mapping[str, Any]:
    folder = Path(str(content.get("output_dir") or "./server_logs")) / str(index)
    variables = {variable: ",".join(share.gpus)} if share.gpus else {}
    return merged(content, {"port": share.port, "output_dir": str(folder), "env_vars": variables})

"""The pytest plugin: a fixture that makes servers, one for each configuration, for the whole session.

    def test_answers(inference_server):
        server = inference_server(backend="vllm", model="Qwen/Qwen3-0.6B", env_vars={"OMP_NUM_THREADS": 4})
        assert server.is_running

A second call with an equal configuration, in this test or another, returns the same server. All are stopped when the
session ends; a session that is killed leaves none either. With pytest-xdist each worker has servers of its own, on
ports that no other worker uses. A test that fails shows the last lines of the servers' logs.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generator, Iterator, Mapping

import pytest

if TYPE_CHECKING:
    from inference_server.server import InferenceServer

FIXTURE = "inference_server"
PLUGIN = "inference-server-sessions"
TAIL_LINES = 30
"""Of each server's log, in the report of a test that fails."""


class InferenceServerWarning(UserWarning):
    """A server had ended before a test wanted it, and was started again."""


def configuration_key(content: Mapping[str, Any]) -> str:
    """Return what equal configurations have in common, whatever the order of their keys. Pure.

    What is not a plain value, such as a callback, is equal to itself alone.
    """
    return json.dumps(_plain(content), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value) if isinstance(value, Path) else "%s at %d" % (type(value).__name__, id(value))


class ServerFactory:
    """What the fixture gives: call it for a server that is ready."""

    def __init__(self, logs: Path, ports: tuple[int, int]) -> None:
        self._logs = logs
        self._ports = ports
        self._servers: dict[str, InferenceServer] = {}
        self._failures: dict[str, Exception] = {}

    def __call__(self, config_file: str | Path | None = None, **content: Any) -> InferenceServer:
        """Return a server that is ready: of a YAML file, of the keys of such a file, or of both.

        Keys take precedence over the file. Without `port` and `output_dir` the server gets a free port and a directory
        of its own.

        Raises:
            ValueError: the configuration is wrong.
            ServerStartupError: it did not start. An equal configuration is not tried again in this session.
        """
        from inference_server.configuration import merged
        from inference_server.factory import load_server_config

        whole = merged(load_server_config(config_file), content) if config_file is not None else content
        key = configuration_key(whole)
        if key in self._failures:
            raise self._failures[key].with_traceback(None)  # where it was raised first is in another test's report
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = self._make(whole, len(self._servers))
        elif not server.is_running:
            warnings.warn(
                InferenceServerWarning(
                    "%s had ended with exit code %s and is started again"
                    % (describe(server), server.process.poll() if server.process else None)
                ),
                stacklevel=2,
            )
        if not server.is_running:
            try:
                server.start()
            except Exception as error:  # whatever it was, it would be the same again
                self._failures[key] = error
                raise
        return server

    def _make(self, content: Mapping[str, Any], number: int) -> InferenceServer:
        from inference_server import ports
        from inference_server.factory import server_from_config

        folder = self._logs / ("%d-%s" % (number, content.get("backend") or "vllm"))
        return server_from_config(
            {
                **content,
                "port": content.get("port") or ports.free_port(self._ports),
                "output_dir": content.get("output_dir") or str(folder),
            }
        )

    @property
    def servers(self) -> tuple[InferenceServer, ...]:
        """The servers of this session, in the order in which they were wanted first."""
        return tuple(self._servers.values())

    def stop(self) -> None:
        """Stop all servers, the last one first; raise the first error when all are stopped."""
        errors: list[Exception] = []
        for server in reversed(self.servers):
            try:
                if server.process is not None:
                    server.stop()
            except Exception as error:  # noqa: BLE001 - the others have to be stopped before it is raised
                errors.append(error)
        if errors:
            raise errors[0]


def describe(server: InferenceServer) -> str:
    """Return how reports name a server."""
    return "%s on port %d" % (server.get_backend_name(), server.port)


class _Sessions:
    """The factory of this session, where hooks find it."""

    def __init__(self) -> None:
        self.factory: ServerFactory | None = None

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, Any, None]:
        """Add the logs to the report of a test that used a server and failed."""
        outcome = yield
        report = outcome.get_result()
        if not report.failed or self.factory is None or FIXTURE not in getattr(item, "fixturenames", ()):
            return
        for server in self.factory.servers:
            head = "inference server %s (%s), logs in %s" % (describe(server), server.state, server.output_dir)
            report.sections.append((head, server.log_tail(TAIL_LINES)))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's option."""
    parser.getgroup("inference server").addoption(
        "--inference-server-logs",
        metavar="DIR",
        help="where servers of the fixture `inference_server` write their logs (default: a temporary directory)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Register what holds this session's servers."""
    config.pluginmanager.register(_Sessions(), PLUGIN)


@pytest.fixture(scope="session")
def inference_server(request: pytest.FixtureRequest) -> Iterator[ServerFactory]:
    """Make inference servers: `inference_server(backend="vllm", model="...")` returns one that is ready."""
    from inference_server import dealing, ports

    config = request.config
    worker = getattr(config, "workerinput", {"workerid": "gw0", "workercount": 1})
    number = int(str(worker["workerid"])[len("gw") :])
    folder = config.getoption("--inference-server-logs")
    if folder:
        logs = Path(folder) / str(worker["workerid"])
    else:
        logs = request.getfixturevalue("tmp_path_factory").mktemp("inference-server")
    factory = ServerFactory(logs, dealing.part_of(ports.chosen_range(), number, int(worker["workercount"])))
    sessions = config.pluginmanager.get_plugin(PLUGIN)
    assert isinstance(sessions, _Sessions)
    sessions.factory = factory
    try:
        yield factory
    finally:
        sessions.factory = None
        factory.stop()

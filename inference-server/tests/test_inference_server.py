"""The servers as callers use them: attributes, start, stop, watch, what goes wrong."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import fake_programs
import pytest
from fake_tree import FAKE, TREE_SIZE, alive, eventually, wait_until_gone

from inference_server import (
    Cause,
    CustomServer,
    EngineError,
    InferenceServer,
    ProfileError,
    ServerStartupError,
    ServerTimeoutError,
    SGLangServer,
    VLLMServer,
    create_server,
    load_server_config,
    register_backend,
    start_server_from_config,
)
from inference_server.ports import free_port
from patio_testing.deadline import DEADLINE

Make = Callable[..., CustomServer]


@pytest.fixture
def engine(tmp_path: Path) -> str:
    return str(fake_programs.install(tmp_path / "bin") / "python")


# What the original's own tests read


def test_vllm_server_has_the_documented_attributes(tmp_path: Path) -> None:
    server = VLLMServer("m", output_dir=str(tmp_path / "a/logs"), port=8001, env_vars={"X": 1, "Y": None, "Z": True})
    assert server.model == "m"
    assert server.port == 8001
    assert server.server_url == "http://localhost:8001"
    assert server.output_dir == tmp_path / "a/logs"
    assert server.process is None
    assert server.is_running is False
    assert server.heartbeat_interval == 5
    assert server.heartbeat_timeout == 30
    assert server.startup_timeout == 600
    assert server.debug_mode is False
    assert server.heartbeat_thread is None
    assert server.last_heartbeat_success is False
    assert server.process_group_id is None
    assert server.tracked_pids == set()
    assert server.config == {}
    assert server.env_vars == {"X": "1", "Z": "1"}
    assert server.get_base_env()["X"] == "1"
    assert server.get_base_env()["PATH"] == os.environ["PATH"]
    assert server.log_file == tmp_path / "a/logs/vllm_server.log"
    assert server.error_log_file == tmp_path / "a/logs/vllm_server_error.log"
    assert server.log_file.parent.exists()
    assert server.logger.name == "VLLMServer"
    assert server.binary_path == "python"
    assert server.api_server_args == []
    assert server.get_backend_name() == "vllm"
    assert server.get_health_endpoint() == "http://localhost:8001/health"
    assert server.list_endpoints() == {
        "health": "http://localhost:8001/health",
        "completions": "http://localhost:8001/v1/completions",
        "chat_completions": "http://localhost:8001/v1/chat/completions",
        "embeddings": "http://localhost:8001/v1/embeddings",
        "models": "http://localhost:8001/v1/models",
        "metrics": "http://localhost:8001/metrics",
    }


def test_launch_commands_are_the_documented_ones(tmp_path: Path) -> None:
    vllm = VLLMServer("m", output_dir=tmp_path, port=8001, config={"api_server_args": {"dtype": "half"}})
    assert vllm.get_launch_command() == [
        *("python", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", "m", "--port", "8001", "--dtype", "half"),
    ]
    for key in ("server_args", "api_server_args"):
        config = {"binary_path": "/x/python", key: ["--tp", "4", "--enable-metrics"]}
        sglang = SGLangServer("m", output_dir=tmp_path, port=8001, config=config)
        assert sglang.server_args == ["--tp", "4", "--enable-metrics"]
        assert sglang.get_launch_command()[:7] == [
            *("/x/python", "-m", "sglang.launch_server", "--model-path", "m", "--port", "8001")
        ]
        assert sglang.list_endpoints()["metrics"] == "http://localhost:8001/metrics"
    assert "metrics" not in SGLangServer("m", output_dir=tmp_path).list_endpoints()


def test_unknown_backend_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Unsupported backend: tgi"):
        create_server("tgi", "m")


def test_start_of_a_running_server_does_nothing(tmp_path: Path) -> None:
    server = VLLMServer("m", output_dir=tmp_path, port=8001)
    server.is_running = True
    server.start()
    assert server.process is None


def test_stop_of_a_server_that_does_not_run_does_nothing(tmp_path: Path) -> None:
    assert VLLMServer("m", output_dir=tmp_path, port=8001).stop() is None


# Start


def test_server_serves_and_stops(make_server: Make) -> None:
    changes: list[str] = []
    phases: list[str] = []
    server = make_server(on_change=changes.append, on_phase=phases.append)
    with server as entered:
        assert entered is server
        assert server.is_running
        assert server.check_health()
        assert server.probe()
        process = server.process
        assert process is not None
        assert server.process_group_id == process.pid
        assert os.getpgid(process.pid) == process.pid
    assert not server.is_running
    assert not server.probe()
    report = server.stop_report
    assert report is not None
    assert report.exit_code == 0
    assert report.survivors == ()
    assert report.signals == (("leader", signal.SIGTERM),)
    assert changes == ["starting", "ready", "stopping", "stopped"]
    assert phases == ["ready"]


def test_endpoints_are_those_that_the_server_has(make_server: Make) -> None:
    server = make_server()
    assert server.discover_endpoints() == {"health": f"{server.server_url}/health"}
    server.start()
    assert server.discover_endpoints() == {
        "health": f"{server.server_url}/health",
        "models": f"{server.server_url}/v1/models",
        "score": f"{server.server_url}/v1/score",
    }


def test_engine_command_reaches_the_engine(tmp_path: Path, engine: str) -> None:
    written = tmp_path / "arguments"
    server = VLLMServer(
        "tiny",
        output_dir=tmp_path / "logs",
        port=0,
        env_vars={"FAKE_ARGUMENTS": str(written)},
        config={"binary_path": engine, "api_server_args": {"disable-log-requests": True, "max_model_len": 64}},
    )
    with server:
        assert server.port > 0
    port = server.port
    assert written.read_text() == (
        f'["-m", "vllm.entrypoints.openai.api_server", "--model", "tiny", "--port", "{port}", "--max-model-len", "64"]'
    )


def test_death_during_a_start_is_told_with_its_cause(make_server: Make, tmp_path: Path) -> None:
    log = tmp_path / "words"
    log.write_text("api_server.py: error: unrecognized arguments: --no-such-thing")
    server = make_server(FAKE_LOG=str(log), FAKE_EXIT="2")
    with pytest.raises(ServerStartupError) as raised:
        server.start()
    error = raised.value
    assert error.cause is Cause.UNKNOWN_OPTION
    assert error.exit_code == 2
    assert "--no-such-thing" in error.hint
    assert "unrecognized arguments" in error.log_tail
    assert error.command[0] == sys.executable
    assert "exit code 2" in str(error)
    assert server.state == "dead"
    assert not server.is_running
    server.stop()


def test_unknown_option_is_told_before_the_start(tmp_path: Path, engine: str) -> None:
    server = VLLMServer(
        "m", output_dir=tmp_path, port=0, config={"binary_path": engine, "api_server_args": ["--max-modell-len", "8"]}
    )
    with pytest.raises(ServerStartupError, match="--max-model-len") as raised:
        server.start()
    assert raised.value.cause is Cause.UNKNOWN_OPTION
    assert server.process is None


def test_interpreter_without_the_engine_is_told_before_the_start(tmp_path: Path) -> None:
    server = SGLangServer("m", output_dir=tmp_path, port=0, config={"binary_path": sys.executable})
    with pytest.raises(ServerStartupError, match="sglang is not installed for") as raised:
        server.start()
    assert raised.value.cause is Cause.WRONG_PYTHON


def test_own_interpreter_is_taken_if_python_has_no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the interpreter of the tests sees a package `vllm`; the `python` on PATH says that it has none."""
    module = tmp_path / "packages/vllm/entrypoints/openai/api_server.py"
    module.parent.mkdir(parents=True)
    module.write_text(f"import runpy; runpy.run_path({str(FAKE)!r}, run_name='__main__')")
    (tmp_path / "packages/vllm/__init__.py").touch()
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\necho inference-server-probe 0\n")
    (tmp_path / "bin/python").chmod(0o755)
    monkeypatch.setenv("PATH", fake_programs.path_with(tmp_path / "bin"))
    variables = {"PYTHONPATH": str(tmp_path / "packages")}
    with VLLMServer("tiny", output_dir=tmp_path / "logs", port=0, env_vars=variables) as server:
        assert server.binary_path == sys.executable


@pytest.mark.parametrize(("startup_timeout", "seconds"), [(10, "600"), (1800.5, "1801")])
def test_vllm_waits_for_its_engine_as_long_as_we_do(
    tmp_path: Path, engine: str, startup_timeout: float, seconds: str
) -> None:
    server = VLLMServer("m", output_dir=tmp_path, startup_timeout=startup_timeout, config={"binary_path": engine})
    environment: dict[str, str] = {}
    assert server.prepare(environment) == (0, 32, 0)
    assert environment["VLLM_ENGINE_READY_TIMEOUT_S"] == seconds


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"m"}),
        (["--served-model-name", "a", "b"], {"a", "b"}),
        (["--served-model-name=a"], {"a"}),
        (["--config", "file.yaml"], set()),
    ],
)
def test_expected_models_are_the_served_names(tmp_path: Path, words: list[str], expected: set[str]) -> None:
    assert VLLMServer("m", output_dir=tmp_path, config={"api_server_args": words}).expected_models() == expected


def test_key_of_the_engine_is_sent_with_own_requests(tmp_path: Path) -> None:
    headers = {"Authorization": "Bearer k"}
    words = ["--api-key", "k"]
    assert VLLMServer("m", output_dir=tmp_path, config={"api_server_args": words}).get_request_headers() == headers
    assert SGLangServer("m", output_dir=tmp_path, config={"server_args": words}).get_request_headers() == headers
    assert VLLMServer("m", output_dir=tmp_path, env_vars={"VLLM_API_KEY": "k"}).get_request_headers() == headers
    assert SGLangServer("m", output_dir=tmp_path, env_vars={"VLLM_API_KEY": "k"}).get_request_headers() == {}


def test_missing_program_is_told_before_the_start(make_server: Make) -> None:
    with pytest.raises(ServerStartupError, match="there is no program no-such-engine") as raised:
        make_server(command=["no-such-engine"]).start()
    assert raised.value.cause is Cause.NOT_FOUND


def test_busy_port_is_told_with_who_holds_it(make_server: Make) -> None:
    first = make_server()
    first.start()
    assert first.process is not None
    with pytest.raises(ServerStartupError, match=f"pid {first.process.pid}") as raised:
        make_server(port=first.port).start()
    assert raised.value.cause is Cause.PORT_IN_USE
    assert first.is_running


class Foreign(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_foreign_server_is_not_taken_for_ours(make_server: Make, tmp_path: Path) -> None:
    """Another server takes the port while ours starts, and answers first."""
    tree = tmp_path / "tree"
    port = free_port()
    server = make_server(port=port, FAKE_HANG="1", FAKE_TREE=str(tree))
    foreign: list[HTTPServer] = []

    def answer_too() -> None:
        eventually(lambda: len(alive(tree)) > 0, lambda: "no engine")
        foreign.append(HTTPServer(("127.0.0.1", port), Foreign))
        foreign[0].serve_forever(poll_interval=0.05)

    thread = threading.Thread(target=answer_too)
    thread.start()
    with pytest.raises(ServerStartupError, match=f"pid {os.getpid()}") as raised:
        server.start()
    foreign[0].shutdown()
    foreign[0].server_close()
    thread.join()
    assert raised.value.cause is Cause.FOREIGN_SERVER
    wait_until_gone(tree)


def test_server_of_another_model_is_not_accepted(tmp_path: Path, engine: str) -> None:
    server = VLLMServer(
        "m", output_dir=tmp_path, port=0, env_vars={"FAKE_MODEL": "other"}, config={"binary_path": engine}
    )
    with pytest.raises(ServerStartupError, match="it serves other") as raised:
        server.start()
    assert raised.value.cause is Cause.WRONG_MODEL


def test_start_that_takes_too_long_is_ended(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = make_server(FAKE_HANG="1", FAKE_TREE=str(tree), startup_timeout=0.5)
    with pytest.raises(ServerTimeoutError, match=r"Server failed to become ready within 0\.5 seconds") as raised:
        server.start()
    assert raised.value.cause is Cause.TIMEOUT
    wait_until_gone(tree)


def test_start_without_progress_is_ended(make_server: Make, tmp_path: Path) -> None:
    server = make_server(FAKE_HANG="1", stall_timeout=1.0)
    with pytest.raises(ServerTimeoutError, match="no progress for 1 seconds") as raised:
        server.start()
    assert raised.value.cause is Cause.STALLED


def test_launched_server_is_waited_for_later(make_server: Make) -> None:
    server = make_server()
    server.launch()
    assert server.process is not None
    first = server.process.pid
    server.launch()
    assert server.process.pid == first, "a second launch does nothing"
    assert not server.is_running
    assert server.wait_until_ready()
    assert server.is_running
    assert server.phases["ready"] > 0
    server.stop()
    with pytest.raises(ServerStartupError, match="was not launched, or was stopped"):
        server.wait_until_ready()


def test_launched_server_is_stopped_with_patience(make_server: Make) -> None:
    server = make_server()
    server.launch()
    eventually(server.probe, lambda: server.state)
    report = server.stop()
    assert report is not None
    assert report.signals == (("leader", signal.SIGTERM),)
    assert report.exit_code == 0


def test_clean_environment_has_the_variables_alone(tmp_path: Path) -> None:
    server = CustomServer("m", ["true"], output_dir=tmp_path, env_mode="clean", env_vars={"A": 1})
    assert server.get_base_env() == {"A": "1"}
    with pytest.raises(ValueError, match="env_mode must be one of inherit, clean, not 'mine'"):
        CustomServer("m", ["true"], output_dir=tmp_path, env_mode="mine")


def test_previous_logs_are_kept(make_server: Make) -> None:
    server = make_server()
    for _ in range(2):
        server.start()
        server.stop()
    assert server.error_log_file.with_name("custom_server_error.log.1").read_text().count("startup complete") == 1
    assert server.error_log_file.read_text().count("startup complete") == 1


# Stop


def test_engine_that_ignores_sigterm_is_stopped_in_time(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = make_server(FAKE_TREE=str(tree), FAKE_STUBBORN="1", stop_timeout=0, debug_mode=True, strict_cleanup=True)
    server.start()
    assert len(server.tracked_pids) == TREE_SIZE
    report = server.stop()
    assert report is not None
    assert report.signals == (("kill", signal.SIGKILL),)
    assert report.exit_code == -signal.SIGKILL
    assert alive(tree) == []
    cleanup = server.cleanup_report
    assert cleanup is not None
    assert cleanup.passed
    assert [check.name for check in cleanup.checks] == [
        "Main server process cleanup",
        "Process group cleanup",
        "All tracked child processes cleanup",
        "System-wide process scanning for orphaned processes",
    ]


def test_stop_from_several_threads_stops_once(make_server: Make) -> None:
    server = make_server()
    server.start()
    reports: list[object] = []
    threads = [threading.Thread(target=lambda: reports.append(server.stop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report is not None for report in reports) == 1
    assert server.stop() is None


def test_restart_is_on_the_same_port(make_server: Make) -> None:
    server = make_server()
    server.start()
    first = server.process
    server.restart()
    assert server.process is not first
    assert server.probe()


def test_kill_ends_everything_at_once(make_server: Make, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    server = make_server(FAKE_TREE=str(tree), FAKE_STUBBORN="1", stop_timeout=600)
    server.start()
    server.kill()
    assert alive(tree) == []
    assert server.state == "stopped"


# Watch


def test_heartbeat_counts_failures_until_unhealthy(make_server: Make, tmp_path: Path) -> None:
    sick = tmp_path / "sick"
    changes: list[str] = []
    server = make_server(FAKE_SICK=str(sick), heartbeat_interval=0.02, on_change=changes.append)
    server.start()
    sick.touch()
    eventually(lambda: changes[-1] == "unhealthy", lambda: changes)
    assert not server.check_health()
    sick.unlink()
    eventually(lambda: changes[-1] == "ready", lambda: changes)
    assert server.check_health()
    assert changes == ["starting", "ready", "degraded", "unhealthy", "ready"]


@pytest.mark.parametrize(
    ("missing", "start", "heartbeat"), [("", "/ready", "/ready"), ("/ready", "/health", "/v1/models")]
)
def test_heartbeat_of_sglang_generates_no_token(
    tmp_path: Path, engine: str, missing: str, start: str, heartbeat: str
) -> None:
    requests = tmp_path / "requests"
    server = SGLangServer(
        "tiny",
        output_dir=tmp_path / "logs",
        port=0,
        heartbeat_interval=0.02,
        env_vars={"FAKE_REQUESTS": str(requests), "FAKE_MISSING": missing},
        config={"binary_path": engine},
    )
    with server:
        assert f"GET {start}" in requests.read_text()
        requests.write_text("")
        eventually(lambda: requests.read_text().count(f"GET {heartbeat}\n") > 2, requests.read_text)
        assert server.check_health()
    assert "/health" not in requests.read_text()


def test_death_is_noticed_before_the_next_heartbeat(make_server: Make) -> None:
    server = make_server(heartbeat_interval=3600)
    server.start()
    assert server.process is not None
    server.process.terminate()
    assert server.wait() == 0
    eventually(lambda: server.state == "dead", lambda: server.state)
    assert not server.is_running
    assert not server.check_health()


# Profilers


def test_nsys_wraps_the_engine_and_its_report_is_written(tmp_path: Path, engine: str) -> None:
    server = VLLMServer(
        "tiny",
        output_dir=tmp_path / "logs",
        port=0,
        config={"binary_path": engine},
        profile={
            "enabled": True,
            "tool": "nsys",
            "binary_path": str(tmp_path / "bin/nsys"),
            "args": ["--trace=cuda,nvtx"],
        },
    )
    with server:
        pass
    assert (tmp_path / "logs/profiles/profile.nsys-rep").read_text() == "profile\n"
    assert (tmp_path / "bin/nsys-arguments").read_text().startswith("profile --trace=cuda,nvtx --output")


def test_profiler_writes_though_the_engine_ignores_sigterm(tmp_path: Path, engine: str) -> None:
    server = VLLMServer(
        "tiny",
        output_dir=tmp_path / "logs",
        port=0,
        stop_timeout=0.2,
        env_vars={"FAKE_STUBBORN": "1"},
        config={"binary_path": engine},
        profile={"enabled": True, "tool": "nsys", "binary_path": str(tmp_path / "bin/nsys")},
    )
    server.start()
    report = server.stop()
    assert report is not None
    assert report.signals == (("leader", signal.SIGTERM), ("engine", signal.SIGKILL))
    assert (tmp_path / "logs/profiles/profile.nsys-rep").read_text() == "profile\n"


def test_missing_profiler_is_told_before_the_start(make_server: Make) -> None:
    server = make_server(profile={"enabled": True, "tool": "nsys", "binary_path": "/nonexistent/nsys"})
    with pytest.raises(ProfileError, match="/nonexistent/nsys"):
        server.start()
    assert server.process is None


# Configuration files


def test_configuration_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("backend: vllm\nmodel: m\nprofile:\n  enabled: true\nlaunch_command: [a, b]\n")
    assert load_server_config(path) == {
        "backend": "vllm",
        "model": "m",
        "profile": {"enabled": True},
        "launch_command": ["a", "b"],
    }
    path.write_text("")
    assert load_server_config(str(path)) == {}
    with pytest.raises(FileNotFoundError):
        load_server_config(tmp_path / "none.yaml")
    for wrong in ("- 1\n", "a: [\n", "a: " + "x" * 1024 * 1024):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            load_server_config(path)


def test_server_of_a_file_starts_with_overrides(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    path = tmp_path / "config.yaml"
    path.write_text(
        f"model: tiny\nport: 1\noutput_dir: {tmp_path}/logs\nheartbeat_intervall: 3\nenv_vars: {{A: 16}}\n"
        f"launch_command: [{sys.executable}, {FAKE}, --port, '{port}']\n"
    )
    with caplog.at_level(logging.WARNING):
        server = start_server_from_config(path, overrides={"port": port, "env_vars": {"B": 2}})
    try:
        assert server.env_vars == {"A": "16", "B": "2"}
        assert server.heartbeat_interval == 5
        assert server.list_endpoints() == {"health": f"http://localhost:{port}/health"}
    finally:
        server.stop()
    assert "did you mean 'heartbeat_interval'" in caplog.text


def test_registered_backend_is_found(tmp_path: Path) -> None:
    class Mine(CustomServer):
        def __init__(self, model: str, **arguments: object) -> None:
            super().__init__(model, ["true"], **arguments)

    register_backend("mine-in-a-test", Mine)
    server: InferenceServer = create_server("mine-in-a-test", "m", output_dir=tmp_path)
    assert isinstance(server, Mine)


def test_secret_is_not_in_the_log(make_server: Make, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), pytest.raises(ServerStartupError) as raised:
        make_server(command=[sys.executable, "-c", "raise SystemExit(1)", "--api-key", "sekret"]).start()
    assert "sekret" not in caplog.text + str(raised.value) + str(raised.value.command)


def test_import_alone_loads_next_to_nothing() -> None:
    """The pytest plugin has it in every run of pytest, so it is to cost less than 50 ms."""
    code = "import sys; before = set(sys.modules); import inference_server; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("inference_server.")} == set()
    assert not loaded & {"logging", "subprocess", "socket", "http.client", "asyncio", "yaml"}


# Drain

BUSY = "vllm:num_requests_running 2.0\nvllm:num_requests_waiting 1.0\n"
IDLE = "vllm:num_requests_running 0.0\nvllm:num_requests_waiting 0.0\n"


class Requests:
    """What the fake engine says of its requests, and how often it was asked."""

    def __init__(self, folder: Path) -> None:
        self._metrics = folder / "metrics.txt"
        self._log = folder / "asked.txt"
        self.variables = {"FAKE_METRICS": str(self._metrics), "FAKE_REQUESTS": str(self._log)}
        self.are(BUSY)

    def are(self, text: str) -> None:
        """Let the engine's metrics be this text from now on."""
        part = self._metrics.with_suffix(".part")
        part.write_text(text)
        part.replace(self._metrics)

    def wait_until_asked(self, times: int) -> None:
        """Wait until the metrics were asked for so often."""
        eventually(lambda: self._count() >= times, self._count)

    def _count(self) -> int:
        return self._log.read_text().count("/metrics") if self._log.exists() else 0


def test_drain_waits_until_no_request_is_left(make_server: Make, tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    with make_server(**requests.variables) as server:
        assert not server.drain(0)
        idle = threading.Timer(0, lambda: (requests.wait_until_asked(3), requests.are(IDLE)))
        idle.start()
        assert server.drain(DEADLINE)
        idle.join()
        assert server.is_running


def test_drain_without_numbers_or_engine_is_an_error(make_server: Make) -> None:
    server = make_server()
    with pytest.raises(EngineError, match="not started"):
        server.drain()
    with server:
        with pytest.raises(EngineError, match="do not say how many"):
            server.drain()
        assert server.process is not None
        server.process.kill()
        server.process.wait(DEADLINE)
        with pytest.raises(EngineError, match="ended with code -9"):
            server.drain()


def test_stop_lets_requests_finish_first(make_server: Make, tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    server = make_server(drain_timeout=DEADLINE, **requests.variables)
    server.start()
    stop = threading.Thread(target=server.stop)
    stop.start()
    requests.wait_until_asked(3)
    assert server.process is not None
    assert server.process.poll() is None
    assert server.state == "stopping"
    requests.are(IDLE)
    stop.join(DEADLINE)
    assert server.state == "stopped"
    assert server.process.poll() == 0


def test_stop_goes_on_where_no_drain_is_possible(make_server: Make, caplog: pytest.LogCaptureFixture) -> None:
    with make_server(drain_timeout=DEADLINE) as server:
        pass
    assert server.stop_report is not None
    assert server.stop_report.exit_code == 0
    assert "no request is waited for: the engine's metrics do not say" in caplog.text


def test_kill_ends_a_stop_that_drains(make_server: Make, tmp_path: Path) -> None:
    requests = Requests(tmp_path)
    server = make_server(drain_timeout=DEADLINE, **requests.variables)
    server.start()
    stop = threading.Thread(target=server.stop)
    stop.start()
    requests.wait_until_asked(2)
    server.kill()
    stop.join(DEADLINE)
    assert not stop.is_alive()
    assert server.process is not None
    assert server.process.poll() == -signal.SIGKILL


# Restart


def kill_engine(server: CustomServer) -> int:
    """Kill the engine's first process; return its pid."""
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    return server.process.pid


def restart_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "inference-server-restart"]


def test_killed_server_is_started_again_if_wanted(make_server: Make) -> None:
    changes: list[str] = []
    with make_server(restart="on-failure", on_change=changes.append) as server:
        first = kill_engine(server)
        eventually(lambda: changes[2:] == ["dead", "starting", "ready"], lambda: changes)
        assert server.is_running
        assert not server.is_restarting
        assert server.process is not None
        assert server.process.pid != first
    assert not restart_threads()


def test_server_that_ended_with_0_is_not_started_again(make_server: Make) -> None:
    with make_server(restart="on-failure") as server:
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGTERM)
        eventually(lambda: server.state == "dead", lambda: server.state)
        assert not server.is_restarting


def test_stop_in_the_pause_before_a_restart_ends_it(make_server: Make) -> None:
    server = make_server(restart="on-failure")
    server.start()
    kill_engine(server)
    eventually(lambda: server.is_restarting, lambda: server.state)
    server.stop()
    assert not server.is_restarting
    eventually(lambda: not restart_threads(), restart_threads)
    assert server.state == "stopped"
    assert server.process is not None
    assert server.process.has_gone()


def test_stop_in_a_restart_ends_it(make_server: Make) -> None:
    changes: list[str] = []
    server = make_server(restart="on-failure", on_change=changes.append)
    server.start()
    server.env_vars["FAKE_HANG"] = "1"
    kill_engine(server)
    eventually(lambda: changes[-2:] == ["dead", "starting"], lambda: changes)
    server.stop()
    eventually(lambda: not restart_threads(), restart_threads)
    assert not server.is_restarting
    assert not server.is_running
    assert server.process is not None
    assert server.process.has_gone()


def test_restarts_that_fail_end_at_the_limit(make_server: Make, caplog: pytest.LogCaptureFixture) -> None:
    changes: list[str] = []
    server = make_server(restart="on-failure", restart_limit=2, on_change=changes.append)
    server.start()
    server.env_vars["FAKE_EXIT"] = "3"
    kill_engine(server)
    eventually(lambda: not server.is_restarting and server.state == "dead" and not restart_threads(), lambda: changes)
    assert changes[2:] == ["dead", "starting", "dead", "starting", "dead", "dead"]
    assert "the server is not started again: 2 restarts in a row failed" in caplog.text
    server.env_vars.pop("FAKE_EXIT")
    assert server.start()
    server.stop()

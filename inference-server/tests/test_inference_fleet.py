"""Several servers start and stop together, and what happens to one is said, not done, to the others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_programs
import pytest
from fake_tree import FAKE, alive, eventually, wait_for_tree, wait_until_gone

from inference_server import Cause, CleanupError, CustomServer, Fleet, FleetStartupError, ServerStartupError, start_many
from inference_server.fleet import fleet_from_config
from inference_server.ports import free_port
from patio_testing.deadline import DEADLINE

Make = Callable[..., CustomServer]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH with a Python that has both engines, in a folder of the test."""
    monkeypatch.setenv("PATH", fake_programs.path_with(fake_programs.install(tmp_path / "bin")))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def two(make_server: Make, tmp_path: Path) -> Callable[..., list[CustomServer]]:
    """Make two servers, each with variables of its own."""

    def make(first: dict[str, Any] | None = None, second: dict[str, Any] | None = None) -> list[CustomServer]:
        return [
            make_server(output_dir=tmp_path / str(number), **(variables or {}))
            for number, variables in enumerate((first, second))
        ]

    return make


Two = Callable[..., list[CustomServer]]


def test_servers_serve_together_and_stop_together(two: Two) -> None:
    with Fleet(two()) as fleet:
        assert fleet.serving == fleet.servers
        assert all(server.probe() for server in fleet.servers)
        assert not fleet.wait(0)
    assert [server.state for server in fleet.servers] == ["stopped", "stopped"]
    assert fleet.wait(0)
    assert fleet.failures == {}


def test_reports_of_a_stop_are_in_the_order_of_the_servers(two: Two) -> None:
    fleet = Fleet(two())
    assert fleet.stop() == [None, None]
    fleet.start()
    reports = fleet.stop()
    assert [report.exit_code for report in reports if report is not None] == [0, 0]
    fleet.start()
    assert fleet.serving == fleet.servers
    fleet.stop()


def test_failed_start_stops_the_others_and_says_so(two: Two, tmp_path: Path) -> None:
    log, tree = tmp_path / "words", tmp_path / "tree"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory")
    servers = two({"FAKE_TREE": str(tree), "FAKE_HANG": "1"}, {"FAKE_LOG": str(log), "FAKE_EXIT": "1"})
    fleet = Fleet(servers, stagger=0)
    with pytest.raises(FleetStartupError) as raised:
        fleet.start()
    error = raised.value
    assert error.cause is Cause.GPU_MEMORY
    assert "more GPUs" in error.hint
    assert "CUDA out of memory" in error.log_tail
    assert [name for name, _ in error.failures] == [fleet.name_of(1)]
    assert error.stopped == (fleet.name_of(0),)
    assert "1 of 2 servers did not start: server 1" in str(error)
    assert f"Stopped for that: {fleet.name_of(0)}" in str(error)
    assert not any(server.is_running for server in servers)
    wait_until_gone(tree)


def test_death_during_a_start_stops_one_that_serves(two: Two, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    servers = two({"FAKE_TREE": str(tree), "FAKE_HANG": "1"}, {})
    blocked = Fleet(servers)
    failures: list[BaseException] = []

    def start() -> None:
        try:
            blocked.start()
        except ServerStartupError as error:
            failures.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for_tree(tree)
    eventually(lambda: servers[1].is_running, lambda: servers[1].state)
    assert servers[0].process is not None
    os.kill(servers[0].process.pid, signal.SIGKILL)
    thread.join(DEADLINE)
    assert len(failures) == 1
    wait_until_gone(tree)
    assert servers[1].state == "stopped"


def test_fleet_serves_with_the_minimum(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    servers = two({}, {"FAKE_EXIT": "3"})
    with Fleet(servers, minimum=1) as fleet:
        assert fleet.serving == (servers[0],)
        assert list(fleet.failures) == [1]
        assert f"{fleet.name_of(1)} did not start; 1 of 2 serve" in caplog.text


def test_death_takes_no_neighbour_along_and_is_said(two: Two, caplog: pytest.LogCaptureFixture) -> None:
    servers = two()
    changes: list[str] = []
    servers[0].on_change = changes.append
    with Fleet(servers) as fleet:
        assert servers[0].process is not None
        os.kill(servers[0].process.pid, signal.SIGKILL)
        eventually(lambda: "dead" in changes, lambda: changes)
        assert f"{fleet.name_of(0)} ended; 1 of 2 serve" in caplog.text
        assert servers[1].probe()
        assert not fleet.wait(0)
    assert servers[1].stop_report is not None
    assert servers[1].stop_report.exit_code == 0


def test_wait_ends_when_the_last_server_ends(two: Two) -> None:
    servers = two()
    with Fleet(servers) as fleet:
        for server in servers:
            assert server.process is not None
            os.kill(server.process.pid, signal.SIGKILL)
        assert fleet.wait(DEADLINE)


def test_only_server_raises_its_own_error(make_server: Make) -> None:
    with pytest.raises(ServerStartupError, match="exit code 3") as raised:
        Fleet([make_server(FAKE_EXIT="3")]).start()
    assert not isinstance(raised.value, FleetStartupError)


def test_error_of_a_stop_is_raised_when_all_are_stopped(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = two()
    stop = servers[0].stop

    def fail() -> None:
        stop()
        raise CleanupError("something was left")

    monkeypatch.setattr(servers[0], "stop", fail)
    fleet = Fleet(servers)
    fleet.start()
    with pytest.raises(CleanupError, match="something was left"):
        fleet.stop()
    assert [server.state for server in servers] == ["stopped", "stopped"]


def test_kill_ends_stubborn_servers_at_once(two: Two, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    fleet = Fleet(two({"FAKE_TREE": str(tree), "FAKE_STUBBORN": "1"}, {"FAKE_STUBBORN": "1"}))
    fleet.start()
    fleet.kill()
    assert alive(tree) == []
    assert fleet.wait(DEADLINE)


def test_stop_from_another_thread_ends_a_start(two: Two, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    fleet = Fleet(two({"FAKE_TREE": str(tree), "FAKE_HANG": "1"}, {"FAKE_HANG": "1"}))
    errors: list[BaseException] = []

    def start() -> None:
        try:
            fleet.start()
        except ServerStartupError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    wait_for_tree(tree)
    fleet.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert len(errors) == 1
    wait_until_gone(tree)


def test_fleet_without_servers_is_an_error() -> None:
    with pytest.raises(ValueError, match="needs a server"):
        Fleet([])


# Of a configuration


@pytest.mark.usefixtures("engine")
def test_replicas_have_ports_gpus_and_logs_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    config = {"api_server_args": {"tensor-parallel-size": 2}}
    with fleet_from_config({"model": "tiny", "port": 0, "replicas": 2, "config": config}) as fleet:
        first, second = fleet.servers
        assert first.port != second.port
        assert [server.env_vars["CUDA_VISIBLE_DEVICES"] for server in fleet.servers] == ["4,5", "6,7"]
        assert [server.log_file.exists() for server in fleet.servers] == [True, True]
        assert [str(server.output_dir) for server in fleet.servers] == ["server_logs/0", "server_logs/1"]


@pytest.mark.usefixtures("engine")
def test_too_few_gpus_are_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ValueError, match="2 servers need 2 GPUs"):
        fleet_from_config({"model": "m", "replicas": 2})


@pytest.mark.usefixtures("engine")
def test_servers_that_name_one_port_have_the_following_ones() -> None:
    servers = [{"model": "a"}, {"model": "b"}, {"model": "c", "port": 9}, {"model": "d", "backend": "sglang"}]
    fleet = fleet_from_config({"port": 20000, "servers": servers})
    assert [server.port for server in fleet.servers] == [20000, 20001, 9, 20002]
    fleet = fleet_from_config({"model": "m", "backend": "sglang", "port": 20000, "replicas": 2})
    assert [server.port for server in fleet.servers] == [20000, 21000]


@pytest.mark.usefixtures("engine")
def test_one_server_is_left_as_it_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    (server,) = fleet_from_config({"model": "m", "output_dir": "logs", "port": 7}).servers
    assert (server.port, str(server.output_dir), server.env_vars) == (7, "logs", {})


def test_many_are_started_from_mappings(tmp_path: Path) -> None:
    ports = [free_port(), free_port()]
    contents = [
        {
            "backend": "mine",
            "model": name,
            "port": port,
            "output_dir": str(tmp_path),
            "launch_command": [sys.executable, str(FAKE), "--model", name, "--port", str(port)],
        }
        for name, port in zip("ab", ports, strict=True)
    ]
    fleet = start_many(contents, stagger=0.01)
    try:
        assert [server.model for server in fleet.serving] == ["a", "b"]
    finally:
        fleet.stop()


def test_busy_port_of_one_replica_names_who_is_stopped(tmp_path: Path, engine: None) -> None:
    with socket.socket() as holder:
        holder.bind(("", 0))
        holder.listen()
        port = holder.getsockname()[1]
        fleet = fleet_from_config({"servers": [{"model": "a", "port": port}, {"model": "b", "port": 0}]})
        with pytest.raises(FleetStartupError, match=f"server 0 .*port {port} is in use.*Stopped for that: server 1"):
            fleet.start()

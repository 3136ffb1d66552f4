"""What a server writes down of its run, and how others find the servers that run."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_tree import eventually
from test_inference_run_record import RECORD

from inference_server import CustomServer, ServerStartupError
from inference_server.processes import send_signal
from inference_server.run_file import (
    NAME,
    RunFile,
    is_running,
    own_versions,
    read_record,
    running_servers,
    version_in,
    write_whole,
)
from inference_server.run_record import LIBRARY, RunRecord

Make = Callable[..., CustomServer]


def written(server: CustomServer) -> RunRecord:
    record = read_record(server.output_dir / NAME)
    assert record is not None
    return record


def test_life_of_a_server_is_written_down(make_server: Make) -> None:
    server = make_server(HF_TOKEN="hf_secret_of_the_test")
    server.start()
    record = written(server)
    assert (record.state, record.phase, record.port, record.model) == ("ready", "ready", server.port, "tiny")
    assert record.owner.pid == os.getpid()
    assert record.owned_by == LIBRARY
    assert record.engine is not None
    assert server.process is not None
    assert record.engine.pid == server.process.pid
    assert is_running(record)
    assert record.environment["HF_TOKEN"] == "***"
    assert "hf_secret_of_the_test" not in (server.output_dir / NAME).read_text()
    assert record.endpoints == server.list_endpoints()
    assert record.stop is None
    server.stop()
    record = written(server)
    assert record.state == "stopped"
    assert record.stop is not None
    assert record.stop["exit_code"] == 0
    assert record.ended_at >= record.started_at
    assert not is_running(record)


def test_failed_start_is_written_down_with_its_cause(make_server: Make, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("torch.OutOfMemoryError: CUDA out of memory")
    server = make_server(FAKE_LOG=str(log), FAKE_EXIT="1")
    with pytest.raises(ServerStartupError):
        server.start()
    record = written(server)
    assert record.state == "dead"
    assert record.error is not None
    assert (record.error["cause"], record.error["exit_code"]) == ("gpu-memory", 1)


def test_death_is_written_down(make_server: Make) -> None:
    server = make_server()
    server.start()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGKILL)
    eventually(lambda: written(server).state == "dead", lambda: written(server))
    error = written(server).error
    assert error is not None
    assert error["exit_code"] == -signal.SIGKILL


def test_servers_that_run_are_found_by_their_keepers(make_server: Make, tmp_path: Path) -> None:
    first, second = make_server(output_dir=tmp_path / "a b"), make_server(output_dir=tmp_path / "b")
    first.start()
    second.start()

    def found() -> list[str]:
        owned = [server for server in running_servers() if server.owner_pid == os.getpid()]
        return [str(server.path) for server in owned if server.record is not None]

    assert found() == [str(first.output_dir / NAME), str(second.output_dir / NAME)]
    first.stop()
    assert found() == [str(second.output_dir / NAME)]
    second.kill()
    assert found() == []


def test_record_of_another_run_is_not_believed(make_server: Make) -> None:
    server = make_server()
    server.start()
    write_whole(server.output_dir / NAME, (server.output_dir / NAME).read_text().replace('"start": ', '"start": 1'))
    (found,) = [each for each in running_servers() if each.owner_pid == os.getpid()]
    assert found.record is None
    assert send_signal(found.keeper, signal.SIGTERM)
    eventually(lambda: server.state == "dead", lambda: server.state)


def test_file_that_cannot_be_written_disturbs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = RunFile(tmp_path / "missing" / NAME, logging.getLogger("test"))
    file.note(state="ready")
    file.begin(RECORD)
    assert "cannot write" in caplog.text
    assert read_record(file.path) is None


def test_version_is_read_off_what_is_installed() -> None:
    names = ["yaml", "patio_inference_server-0.1.0rc1.dist-info", "patio_inference_server"]
    assert version_in(names) == "0.1.0rc1"
    assert version_in([]) == version_in(["other-1.0.dist-info"]) == ""
    assert own_versions() == {
        "python": sys.version.split()[0],
        "inference_server": importlib.metadata.version("patio-inference-server"),
    }


def test_reader_sees_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]

"""What tests start with `local_servers` ends with pytest, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference_server import processes
from inference_server.ports import free_port, is_free
from patio_testing.deadline import DEADLINE
from patio_testing.kube import until

IN_THE_MIDDLE = """
import os
import signal
from pathlib import Path

import pytest

from patio_testing.local_servers import engine_double


@pytest.fixture
def engine():
    with engine_double("engine", Path(__file__).parent / "logs", int(os.environ["PORT"])) as server:
        yield server


def test_is_killed_in_the_middle(engine):
    (Path(__file__).parent / "pid").write_text(str(engine.process.pid))
    signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_pytest_leaves_no_engine(tmp_path: Path, number: signal.Signals) -> None:
    file, port = tmp_path / "test_in_the_middle.py", free_port()
    file.write_text(IN_THE_MIDDLE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(file)]
    with subprocess.Popen(command, env={**os.environ, "PORT": str(port)}, stdout=subprocess.DEVNULL) as running:
        try:
            until("the test is in its middle", lambda: (tmp_path / "pid").exists(), within=DEADLINE)
            until("its engine's pid", lambda: (tmp_path / "pid").read_text(), within=DEADLINE)
            engine = processes.stat_of(int((tmp_path / "pid").read_text()))
            assert engine is not None
            assert engine.alive
        finally:
            running.send_signal(number)
    until("the engine has ended", lambda: not processes.is_alive(engine.identity), within=DEADLINE)
    assert is_free(port)

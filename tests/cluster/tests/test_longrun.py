import os
import sys
from pathlib import Path

import pytest

from e2e_cluster import longrun
from e2e_cluster.longrun import CommandError, run_logged


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_output_is_in_the_log_after_the_command_itself(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "build.log"
    run_logged("build", python("print('layer 1')"), log, lambda _: None)
    run_logged("build", python("print('layer 2')"), log, lambda _: None)
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("$ ")] == ["layer 1", "layer 2"]
    assert lines[0].startswith(f"$ {sys.executable} -c")


def test_failure_shows_the_end_of_the_log_and_its_path(tmp_path: Path) -> None:
    log = tmp_path / "build.log"
    code = "import sys; print('first', *range(100), 'no space left', sep='\\n'); sys.exit(3)"
    with pytest.raises(CommandError) as error:
        run_logged("build", python(code), log, lambda _: None)
    assert f"build: {sys.executable} ended with 3. The end of {log}:" in str(error.value)
    assert "no space left" in str(error.value)
    assert "first" not in str(error.value)


def test_command_that_takes_long_shows_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(longrun, "HEARTBEAT", 0.01)
    messages: list[str] = []
    fifo = tmp_path / "go"
    os.mkfifo(fifo)

    def report(line: str) -> None:
        messages.append(line)
        if len(messages) == 2:
            fifo.write_text("on")

    run_logged("build", python(f"open({str(fifo)!r}).read()"), tmp_path / "log", report)
    assert messages[0].startswith("build: still at it after")

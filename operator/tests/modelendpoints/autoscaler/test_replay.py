"""The recorded day, replayed; and the command that prints it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from patio_operator.modelendpoints.autoscaler import __main__ as program
from patio_operator.modelendpoints.autoscaler.decision import Reason
from patio_operator.modelendpoints.autoscaler.replay import replay
from patio_operator.modelendpoints.autoscaler.spec import read_spec
from patio_operator.modelendpoints.autoscaler.trace import read_trace
from patio_testing.deadline import DEADLINE

from .builders import at
from .simulator import DAY, RECORDED, recorded_day, reversals

TRACE, SPEC, TABLE = (RECORDED / name for name in ("day.jsonl", "spec.yaml", "day.txt"))


def test_recorded_day_goes_from_zero_to_four_and_back() -> None:
    with TRACE.open() as lines:
        decided = [decision for _, decision in replay(read_trace(lines), DAY)]
    replicas = [decision.replicas for decision in decided]
    assert (replicas[0], max(replicas), replicas[-1]) == (0, 4, 0)
    assert reversals(replicas) == 0
    assert {decision.reason for decision in decided} >= {Reason.WOKEN_BY_DEMAND, Reason.RECENT_PEAK, Reason.DEMAND_FELL}


def test_recorded_day_is_what_the_simulation_gives() -> None:
    """In the loop and from the file: the same steps, and the same decisions."""
    day = recorded_day()
    with TRACE.open() as lines:
        steps = list(read_trace(lines))
    assert steps == day.steps
    assert [decision for _, decision in replay(steps, DAY)] == day.decisions
    assert (day.served, day.violations) == (day.arrived, [])


def test_command_prints_the_recorded_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(TRACE), "--spec", str(SPEC)]) == 0
    assert capsys.readouterr().out == TABLE.read_text()


def test_spec_of_the_recorded_day_is_the_simulations(capsys: pytest.CaptureFixture[str]) -> None:
    read = read_spec({"workers": {"max": 6, "concurrency": 8, "scaleToZeroAfter": "1m", "loadingGrace": "5m"}})
    assert read == DAY
    assert program.main([str(TRACE), "--spec", str(SPEC), "--all"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TRACE.read_text().splitlines()) + 1


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("trace", "spec", "message"),
    [
        ('{"at": 0}\nnonsense\n', "workers: {max: 2}", "line 2: each line must be a JSON object"),
        ("{" * 2_000_000, "workers: {max: 2}", "line 1: a line has at most 1048576 characters"),
        ('{"at": 0}', "workers: {max: many}", "workers.max must be an integer"),
        ('{"at": 0}', "workers: [", "while parsing"),
        ('{"at": 0}', "[" * 5000, "spec.yaml: "),
        ('{"at": 0}', " " * 300_000, "a spec has at most 262144 characters"),
    ],
)
def test_bad_input_is_exit_code_two_with_the_cause(
    trace: str, spec: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [written(tmp_path, "trace.jsonl", trace), "--spec", written(tmp_path, "spec.yaml", spec)]
    assert program.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_missing_or_binary_file_is_exit_code_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main([str(tmp_path / "none"), "--spec", str(SPEC)]) == 2
    assert "No such file" in capsys.readouterr().err
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert program.main([str(tmp_path / "binary"), "--spec", str(SPEC)]) == 2
    assert program.main([str(TRACE), "--spec", str(tmp_path / "binary")]) == 2


def test_wrong_command_line_is_exit_code_two() -> None:
    with pytest.raises(SystemExit) as raised:
        program.main([str(TRACE)])
    assert raised.value.code == 2


def test_names_in_messages_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = '{"at": 0, "replicas": 1, "workers": 1, "gateways": [{"name": "\\u001b[31mgw"}], "reports": []}'
    assert program.main([written(tmp_path, "trace", trace), "--spec", str(SPEC)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "no report from ?[31mgw" in out


def run(*arguments: str, text: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "patio_operator.modelendpoints.autoscaler", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=DEADLINE, check=False)


def test_program_reads_standard_input_and_has_help() -> None:
    done = run("-", "--spec", str(SPEC), text=TRACE.read_text())
    assert (done.returncode, done.stdout) == (0, TABLE.read_text())
    shown = run("--help", text="").stdout
    assert "exit codes: 0" in shown
    example = next(each.strip() for each in shown.splitlines() if each.startswith('  {"at"'))
    assert len(list(read_trace([example]))) == 1


def test_reader_that_has_seen_enough_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        command = [sys.executable, "-m", "patio_operator.modelendpoints.autoscaler", str(TRACE), "--spec", str(SPEC)]
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=DEADLINE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_replay_goes_on_from_a_memory() -> None:
    with TRACE.open() as lines:
        steps = list(read_trace(lines))
    whole = list(replay(steps, DAY))
    middle = len(steps) // 2
    assert steps[middle].now > at(200)
    assert list(replay(steps[middle:], DAY, whole[middle - 1][1].memory)) == whole[middle:]


def test_trace_is_bounded_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "MOST_CHARACTERS", 100)
    assert program.main([written(tmp_path, "trace", '{"at": 0}\n' * 11), "--spec", str(SPEC)]) == 2
    assert "a trace has at most 100 characters" in capsys.readouterr().err

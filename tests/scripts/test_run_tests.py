"""The test command: every stage runs, and the summary counts what the reports say."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from patio_testing.deadline import DEADLINE
from scripts import run_tests
from scripts.run_tests import Result, Stage, main, read_report, summary


def pytest_stage(folder: Path, name: str, text: str) -> Stage:
    folder.joinpath(f"test_{name}.py").write_text(text)
    return Stage(name, ("-p", "no:cacheprovider", "--rootdir", str(folder), str(folder / f"test_{name}.py")))


def test_failed_stage_does_not_stop_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stages = (
        Stage("lint", (sys.executable, "-c", "raise SystemExit(3)"), is_pytest=False),
        pytest_stage(tmp_path, "one", "def test_bad():\n    assert False\n\ndef test_good():\n    pass\n"),
        pytest_stage(
            tmp_path, "two", "import pytest\n\n@pytest.mark.skip(reason='no GPU')\ndef test_off():\n    pass\n"
        ),
    )
    monkeypatch.setattr(run_tests, "STAGES", stages)
    assert main([]) == 1
    printed = capfd.readouterr().out
    assert printed.splitlines()[-1] == "1 passed, 2 failed, 1 skipped"
    assert "test_one::test_bad" in printed
    assert "     1  no GPU" in printed


def test_all_stages_green_exit_with_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_tests, "STAGES", (pytest_stage(tmp_path, "one", "def test_good():\n    pass\n"),))
    assert main(["--stages", "one", "--", "-q"]) == 0


def test_stage_beside_the_others_runs_while_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Each waits for the file of the other: in turn, the first would wait for ever.
    meet = (
        "import pathlib, sys, time\n"
        "mine, other = map(pathlib.Path, sys.argv[1:])\n"
        "mine.touch()\n"
        f"deadline = time.monotonic() + {DEADLINE}\n"
        "while not other.exists():\n"
        "    assert time.monotonic() < deadline\n"
        "    time.sleep(0.01)\n"
        "print('met')\n"
    )
    paths = [str(tmp_path / name) for name in ("quick", "cluster")]
    stages = (
        Stage("tools", (sys.executable, "-c", ""), is_pytest=False),
        Stage("quick", (sys.executable, "-c", meet, *paths), is_pytest=False),
        Stage("cluster", (sys.executable, "-c", meet, *reversed(paths)), is_pytest=False, beside=True),
    )
    monkeypatch.setattr(run_tests, "STAGES", stages)
    assert main([]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert {"quick: met", "cluster: met"} <= set(lines)
    assert lines[-1] == "0 passed, 0 failed, 0 skipped"


def test_pytest_that_died_counts_as_one_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os\n\ndef test_death():\n    os._exit(0)\n"
    monkeypatch.setattr(run_tests, "STAGES", (pytest_stage(tmp_path, "one", text),))
    assert main([]) == 1


def test_unknown_stage_is_rejected_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--stages", "units"])
    assert refused.value.code == 2
    assert "unknown stage units; the stages are tools, lint, unit, api, release, cluster" in capsys.readouterr().err


def test_test_that_fails_twice_is_counted_once(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="b"><failure/></testcase>'
        '<testcase classname="a" name="b"><error/></testcase><testcase classname="a" name="c"/>'
        "</testsuite></testsuites>"
    )
    assert read_report(report) == (1, ("a::b",), Counter())


def test_summary_ends_with_the_plain_sum() -> None:
    unit = Result("unit", True, 61.0, True, 5, (), Counter({"no GPU": 2}))
    lint = Result("lint", True, 1.0, is_pytest=False)
    lines = summary([lint, unit]).splitlines()
    assert lines[-1] == "5 passed, 0 failed, 2 skipped"
    assert lines[3].split() == ["unit", "5", "0", "2", "61", "s"]

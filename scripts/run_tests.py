"""Runs every stage of the tests, whatever fails, and ends with one summary: what `make test` calls.

A stage is one command: the cluster's tools, the linters, and a pytest run each for the quick tests, for those with an
API server and for those with a cluster. Tests with a cluster mostly wait for it, so the others run beside them; each
line of output then begins with its stage. Counts come from the reports that pytest writes (JUnit XML), never from its
output. The exit code is 0 only if every stage succeeded. The last line is the sum: `N passed, N failed, N skipped`.

    python -m scripts.run_tests [--stages unit,api] [-- ARGUMENTS OF PYTEST]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

TESTS_AT_ONCE = 3
"""Tests mostly wait, so some run at the same time; those with a cluster or a real engine go one after the other."""


@dataclass(frozen=True)
class Stage:
    """One command of the test suite."""

    name: str
    command: tuple[str, ...]
    is_pytest: bool = True
    beside: bool = False
    """Whether it runs beside the stages after the first one, and not in turn with them."""


STAGES = (
    # The tools come first: what takes minutes shows its progress here, which pytest would hide. All others need them.
    Stage("tools", ("make", "tools"), is_pytest=False),
    Stage("lint", ("make", "lint"), is_pytest=False),
    Stage(
        "unit",
        (
            *("-n", str(TESTS_AT_ONCE), "--dist", "worksteal"),
            *("protocol/tests", "api/tests", "kube/tests", "sidecar/tests", "operator/tests", "observability/tests"),
            *("release/tests", "inference-server/tests", "gateway/tests"),
            *("tests/doubles/engine/tests", "tests/scripts"),
        ),
    ),
    Stage("api", ("-n", "2", "--dist", "loadfile", "tests/api", "tests/chart")),
    # Two whole releases, with PATIO_TEST_LONG=1 only.
    Stage("release", ("tests/release",)),
    Stage("cluster", ("tests/cluster/tests", "tests/engine/tests", "tests/e2e"), beside=True),
)


@dataclass(frozen=True)
class Result:
    """The outcome of one stage."""

    name: str
    succeeded: bool
    seconds: float
    is_pytest: bool
    passed: int = 0
    failures: tuple[str, ...] = ()
    """Names of the tests that failed, or could not be run."""
    skips: Counter[str] = field(default_factory=Counter)
    """How many tests were skipped, by reason."""


def read_report(report: Path) -> tuple[int, tuple[str, ...], Counter[str]]:
    """Read a JUnit report of pytest: the number of tests passed, the names of those that failed, reasons of skips.

    Raises:
        OSError: there is no report.
        ElementTree.ParseError: the report ends in the middle.

    """
    passed = 0
    failures: list[str] = []
    skips: Counter[str] = Counter()
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        outcomes = {child.tag: child for child in case}
        if "failure" in outcomes or "error" in outcomes:
            failures.append(f"{case.get('classname', '')}::{case.get('name', '')}")
        elif "skipped" in outcomes:
            skips[outcomes["skipped"].get("message") or "no reason given"] += 1
        else:
            passed += 1
    return passed, tuple(dict.fromkeys(failures)), skips


def summary(results: Sequence[Result]) -> str:
    """Return the summary of all stages, for a person, with the plain sum as its last line."""
    lines = ["", f"{'stage':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'time':>10}"]
    for result in results:
        counts = (
            (str(result.passed), str(len(result.failures)), str(result.skips.total()))
            if result.is_pytest
            else ("-",) * 3
        )
        mark = "" if result.succeeded else "   FAILED"
        lines.append(f"{result.name:<10}{counts[0]:>8}{counts[1]:>8}{counts[2]:>9}{result.seconds:>8.0f} s{mark}")
    skips = sum((result.skips for result in results), Counter[str]())
    if skips:
        lines += ["", "skipped:", *(f"  {count:>4}  {reason}" for reason, count in sorted(skips.items()))]
    failures = [name for result in results for name in result.failures]
    if failures:
        lines += ["", "failed:", *(f"  {name}" for name in failures)]
    # A stage that failed without a failed test (a linter, a crash) counts as one failure.
    failed = len(failures) + sum(not result.succeeded and not result.failures for result in results)
    lines += ["", f"{sum(result.passed for result in results)} passed, {failed} failed, {skips.total()} skipped"]
    return "\n".join(lines)


def run(stage: Stage, folder: Path, pytest_arguments: Sequence[str], *, mark_lines: bool) -> Result:
    """Run one stage; its output is this process's, or each line of it with the stage's name before it."""
    print(f"\n==> {stage.name}", flush=True)
    report = folder / f"{stage.name}.xml"
    command = list(stage.command)
    if stage.is_pytest:
        command = [sys.executable, "-m", "pytest", f"--junitxml={report}", *command, *pytest_arguments]
    began = time.monotonic()
    code = run_with_marked_lines(command, f"{stage.name}: ") if mark_lines else subprocess.run(command).returncode
    seconds = time.monotonic() - began
    if not stage.is_pytest:
        return Result(stage.name, code == 0, seconds, is_pytest=False)
    try:
        passed, failures, skips = read_report(report)
    except (OSError, ElementTree.ParseError):
        return Result(stage.name, False, seconds, is_pytest=True)
    return Result(stage.name, code == 0, seconds, True, passed, failures, skips)


def run_with_marked_lines(command: Sequence[str], mark: str) -> int:
    """Run a command and print each line of its output after a mark; return its exit code."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"{mark}{line}", end="", flush=True)
    return process.returncode


def run_all(stages: Sequence[Stage], folder: Path, pytest_arguments: Sequence[str]) -> list[Result]:
    """Run the first stage, then the others one after the other, and those that run beside them at the same time."""
    rest = stages[1:]
    lanes = [lane for lane in ([s for s in rest if not s.beside], [s for s in rest if s.beside]) if lane]

    def run_in_turn(lane: Iterable[Stage]) -> list[Result]:
        return [run(stage, folder, pytest_arguments, mark_lines=len(lanes) > 1) for stage in lane]

    results = [run(stage, folder, pytest_arguments, mark_lines=False) for stage in stages[:1]]
    with ThreadPoolExecutor(max_workers=2) as threads:
        results += [result for in_lane in threads.map(run_in_turn, lanes) for result in in_lane]
    return results


def main(arguments: Sequence[str]) -> int:
    """Run the stages; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--stages", default=",".join(names), help="which stages, with commas (default: %(default)s)")
    parser.add_argument("pytest_arguments", nargs="*", metavar="ARGUMENT", help="for pytest, after --")
    chosen = parser.parse_args(arguments)
    wanted = chosen.stages.split(",")
    unknown = set(wanted) - set(names)
    if unknown:
        parser.error(f"unknown stage {', '.join(sorted(unknown))}; the stages are {', '.join(names)}")
    with tempfile.TemporaryDirectory() as folder:
        stages = [stage for stage in STAGES if stage.name in wanted]
        results = run_all(stages, Path(folder), chosen.pytest_arguments)
    print(summary(results), flush=True)
    return 0 if all(result.succeeded for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

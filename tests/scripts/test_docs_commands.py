"""Every command that the README and the tutorial tell a reader to type is run by some test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from patio_release.version import read_source
from patio_testing.tutorial import DONE_ELSEWHERE, Step, differences, steps

ROOT = Path(__file__).resolve().parents[2]
VERSION = read_source(ROOT).text

INSTALL = f"helm install patio oci://ghcr.io/patio/charts/patio --version {VERSION}"

RUN_OF_THE_README = {
    f"{INSTALL} --namespace patio-system --create-namespace": "tests/release/test_rehearsal.py",
    "make demo": "tests/e2e/test_adapters_on_vllm.py: the functions of environment.py that the demo calls",
    "make test": ".ci/run",
}
"""The commands of the README, and what runs the same."""


def commands(document: str) -> list[str]:
    blocks = [step.commands for step in steps(ROOT / document)]
    return [line.split(" #")[0].rstrip() for block in blocks for line in block.splitlines()]


def test_commands_of_the_readme_are_run_by_tests() -> None:
    assert commands("README.md") == list(RUN_OF_THE_README)


@pytest.mark.parametrize("runner", [*DONE_ELSEWHERE.values(), *RUN_OF_THE_README.values()])
def test_test_that_runs_a_command_exists(runner: str) -> None:
    assert (ROOT / runner.split(":")[0].split(" ")[0]).exists()


def test_demo_runs_what_the_tutorial_begins_with() -> None:
    first = commands("docs/tutorial.md")[0]
    assert first in DONE_ELSEWHERE
    target = re.search(r"^demo: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert target
    assert "python -m patio_testing.demo --engine $(ENGINE)" in target[1]


def test_tutorial_shows_what_its_commands_print() -> None:
    found = steps()
    assert len(found) > 10
    assert [
        step.title for step in found if "get " in step.commands and "jsonpath" not in step.commands and not step.shown
    ] == []


def test_output_differs_only_where_the_tutorial_says_so() -> None:
    step = Step("", "", "NAME   AGE\npod    29s\ntiny ...", "NAME AGE\npod 1s\ntiny what it says\n")
    assert differences(step) == []
    assert differences(Step("", "", "pod 1/1", "pod 0/1\n")) == ["'pod 1/1', not 'pod 0/1'"]
    assert len(differences(Step("", "", "one", "one\ntwo\n"))) == 1

"""docs/tutorial.md on a real cluster: its commands are run, and what they print is compared with what it shows."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace

import pytest

from patio_testing import demo, environment
from patio_testing.kube import Kube
from patio_testing.tutorial import DONE_ELSEWHERE, Step, differences, steps

pytestmark = pytest.mark.cluster


def test_tutorial_prints_what_it_shows(kube: Kube, make_namespace: Callable[[str], str]) -> None:
    assert make_namespace(demo.NAMESPACE) == "demo"
    demo.start_engine(kube, environment.double())
    kube.apply(environment.lora_adapter(demo.NAMESPACE, demo.ADAPTER, environment.ADAPTERS["lora-a"]))
    environment.wait_for_adapter(kube, demo.NAMESPACE, demo.ADAPTER)
    printed = [replace(step, printed=run(step, before)) for before, step in preceded(steps())]
    assert {step.title: differences(step) for step in printed if differences(step)} == {}
    answers = next(step.printed for step in printed if "ask tiny" in step.commands).splitlines()
    assert len({line.split(maxsplit=1)[1] for line in answers}) == 3


def preceded(all_steps: list[Step]) -> list[tuple[str, Step]]:
    """Return each step after what earlier ones export and define: each runs in a shell of its own."""
    before, found = "", []
    for step in all_steps:
        found.append((before, step))
        if step.commands.startswith("export "):
            before += step.commands + "\n"
        if "ask() {" in step.commands:
            before += step.commands.split("\nask tiny")[0] + "\n"
    return found


def run(step: Step, before: str) -> str:
    """Run the commands of a step as a user does, but for those that other tests run."""
    commands = "\n".join(line for line in step.commands.splitlines() if line not in DONE_ELSEWHERE)
    completed = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", before + commands],
        cwd=environment.ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert completed.returncode == 0, f"{step.title}: {commands}\n{completed.stdout}\n{completed.stderr}"
    return completed.stdout

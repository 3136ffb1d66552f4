"""Runs the steps of the tutorial, one after the other, as a user does."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace

from patio_testing import demo, environment
from patio_testing.kube import Kube
from patio_testing.tutorial import DONE_ELSEWHERE, ROOT, Step, differences, steps


def follow(every_step: Sequence[Step]) -> list[Step]:
    """Run the commands of all steps; return the steps with what was printed.

    Raises:
        AssertionError: a command failed; with what it printed.

    """
    return [replace(step, printed=_run(step, before)) for before, step in _preceded(every_step)]


def start(kube: Kube) -> None:
    """Start what the tutorial's first command starts on a cluster with Patio, in a namespace that is there."""
    demo.start_engine(kube, environment.double())
    kube.apply(environment.lora_adapter(demo.NAMESPACE, demo.ADAPTER, environment.ADAPTERS["lora-a"]))
    environment.wait_for_adapter(kube, demo.NAMESPACE, demo.ADAPTER)


def follow_and_compare() -> None:
    """Follow the tutorial's steps after `start`, and compare what they print.

    Raises:
        AssertionError: a command failed, something else was printed, or two adapters and the base answered alike.

    """
    printed = follow(steps())
    assert {step.title: differences(step) for step in printed if differences(step)} == {}
    answers = next(step.printed for step in printed if "ask tiny" in step.commands).splitlines()
    assert len({line.split(maxsplit=1)[1] for line in answers}) == 3


def _preceded(every_step: Sequence[Step]) -> list[tuple[str, Step]]:
    """Return each step after what earlier ones export and define: each runs in a shell of its own."""
    before, found = "", []
    for step in every_step:
        found.append((before, step))
        if step.commands.startswith("export "):
            before += step.commands + "\n"
        if "ask() {" in step.commands:
            before += step.commands.split("\nask tiny")[0] + "\n"
    return found


def _run(step: Step, before: str) -> str:
    """Run the commands of a step as a user does, but for those that other tests run."""
    commands = "\n".join(line for line in step.commands.splitlines() if line not in DONE_ELSEWHERE)
    completed = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", before + commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert completed.returncode == 0, f"{step.title}: {commands}\n{completed.stdout}\n{completed.stderr}"
    return completed.stdout

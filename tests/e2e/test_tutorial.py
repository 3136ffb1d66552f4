"""docs/tutorial.md on a real cluster: its commands are run, and what they print is compared with what it shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from patio_testing import demo, environment
from patio_testing.kube import Kube
from patio_testing.tutorial import differences, steps
from patio_testing.tutorial_run import follow

pytestmark = pytest.mark.cluster


def test_tutorial_prints_what_it_shows(kube: Kube, make_namespace: Callable[[str], str]) -> None:
    assert make_namespace(demo.NAMESPACE) == "demo"
    demo.start_engine(kube, environment.double())
    kube.apply(environment.lora_adapter(demo.NAMESPACE, demo.ADAPTER, environment.ADAPTERS["lora-a"]))
    environment.wait_for_adapter(kube, demo.NAMESPACE, demo.ADAPTER)
    printed = follow(steps())
    assert {step.title: differences(step) for step in printed if differences(step)} == {}
    answers = next(step.printed for step in printed if "ask tiny" in step.commands).splitlines()
    assert len({line.split(maxsplit=1)[1] for line in answers}) == 3

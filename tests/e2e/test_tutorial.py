"""docs/tutorial.md on a real cluster: its commands are run, and what they print is compared with what it shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from patio_testing import demo
from patio_testing.kube import Kube
from patio_testing.tutorial_run import follow_and_compare, start

pytestmark = pytest.mark.cluster


def test_tutorial_prints_what_it_shows(kube: Kube, make_namespace: Callable[[str], str]) -> None:
    assert make_namespace(demo.NAMESPACE) == "demo"
    start(kube)
    follow_and_compare()

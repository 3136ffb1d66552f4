"""Helm, and the chart as it renders it."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries

from .chart_objects import CHART, NAMESPACE, Helm, Object, Render


@pytest.fixture(scope="session")
def helm() -> Helm:
    """Run helm on the chart."""
    binary = ensure_binaries(["helm"]).helm

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        release = ["patio"] if command == "template" else []
        return subprocess.run(
            [binary, command, *release, CHART, "--namespace", NAMESPACE, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="session")
def render(helm: Helm) -> Render:
    """Render the chart with values such as `operator.replicas=2`."""

    def run(*values: str) -> list[Object]:
        done = helm("template", *(f"--set={value}" for value in values))
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    return run


@pytest.fixture(scope="session")
def rendered(render: Render) -> list[Object]:
    return render()

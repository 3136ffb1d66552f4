"""The chart of this tree, installed on an API server that runs no pods."""

from __future__ import annotations

import subprocess
from pathlib import Path

from e2e_cluster import ensure_binaries
from e2e_cluster.control_plane import ControlPlane

PATIENCE = "webhook.timeoutSeconds=30"
"""The API server waits for a busy machine as long as it may."""
CHART = Path(__file__).resolve().parents[4] / "charts" / "patio"


def install_chart(plane: ControlPlane, *values: str) -> None:
    """Install the chart as `patio` in the namespace `patio-system`, with values as `--set` takes them.

    Raises:
        subprocess.CalledProcessError: helm failed; it has said why.

    """
    subprocess.run(
        [
            ensure_binaries(["helm"]).helm,
            *("install", "patio", CHART, "--namespace", "patio-system", "--create-namespace"),
            *("--kubeconfig", plane.kubeconfig),
            *(f"--set={value}" for value in (PATIENCE, *values)),
        ],
        check=True,
        stdout=subprocess.DEVNULL,  # notes for people
    )

"""The benchmark of the operator with a fleet runs on a small one. What it measures is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patio_testing.deadline import DEADLINE

pytestmark = pytest.mark.api
ROOT = Path(__file__).parents[2]


def test_fleet_benchmark_runs_to_its_end() -> None:
    command = [sys.executable, "-m", "benchmarks.fleet", "--no-plans", "--pods=6", "--adapters=4", "--groups=8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=3 * DEADLINE, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for headline in ("one LoraAdapter on 6 pods", "4 LoraAdapters, replicas 3", "8 RoleBasedGroups"):
        assert headline in done.stdout

"""The benchmarks run, on as little as each can do. What they measure is not looked at: a busy machine tells nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from patio_testing.deadline import DEADLINE

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("benchmark", "printed"),
    [
        ("run --only transform --only memory --scrapes 5", "### Resident memory"),
        ("plans 4 20 10", "4 LoraAdapters, 20 pods, 10 pods each"),
        ("many_adapters --engine vllm --adapters 5", "### Many adapters on one pod"),
        ("fuzz --inputs 20", ""),
        ("fuzz_api --cases 20", ""),
        ("fuzz_guard --cases 20", ""),
    ],
)
def test_benchmark_runs_to_its_end(benchmark: str, printed: str) -> None:
    name, *arguments = benchmark.split()
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert printed in done.stdout

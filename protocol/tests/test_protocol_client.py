"""The client in the process of its user."""

from __future__ import annotations

import subprocess
import sys

from patio_testing.deadline import DEADLINE


def run(program: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


def test_client_leaves_its_users_process_alone() -> None:
    program = """
import sys, patio_protocol.client, patio_protocol.adapters
print([name for name in sys.modules if sys.modules[name] is None or name in ("patio.footprint", "fastapi", "uvicorn")])
"""
    assert run(program) == "[]"

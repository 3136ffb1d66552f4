"""How the demo ends where something is missing."""

from __future__ import annotations

import os
import subprocess
import sys


def test_what_a_user_can_mend_ends_the_demo_with_one_message() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "patio_testing.demo", "--engine", "double"],
        env={**os.environ, "PATIO_CLUSTER_PROVIDER": "minikube"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: there is no provider 'minikube': choose one of kind, local"]

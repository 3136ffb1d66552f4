"""The operator's log."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import logging
from patio_operator.telemetry.logs import set_up_logging
set_up_logging("INFO")
for name in ("patio_operator.app", "patio_kube.shared_secret", "aiohttp.access"):
    logging.getLogger(name).info("hello")
"""


def test_own_packages_log_at_the_level_and_libraries_do_not() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert [json.loads(line)["logger"] for line in done.stderr.splitlines()] == [
        "patio_operator.app",
        "patio_kube.shared_secret",
    ]

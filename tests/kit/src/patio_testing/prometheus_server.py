"""A real Prometheus on a free port of loopback, with a configuration and data of its own, while it is used."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from e2e_cluster.unpacked import PROMETHEUS, ensure_unpacked
from inference_server.ports import free_port
from patio_testing.deadline import DEADLINE

ASK_EVERY = 0.05
"""Seconds between questions whether it is ready."""


@contextlib.contextmanager
def prometheus(folder: Path, configuration: Mapping[str, Any]) -> Iterator[str]:
    """Run Prometheus on `folder`/data, and yield its URL when it is ready.

    Raises:
        MachineError: the program is not on this machine, and cannot be had.
        AssertionError: it ended, or was not ready in time; with its log.

    """
    # JSON is YAML.
    (folder / "prometheus.yaml").write_text(json.dumps(configuration))
    port = free_port()
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                ensure_unpacked(PROMETHEUS),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/-/ready", process, log)
        yield url
    finally:
        process.kill()
        process.wait()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + DEADLINE
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except OSError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(ASK_EVERY)
        else:
            return

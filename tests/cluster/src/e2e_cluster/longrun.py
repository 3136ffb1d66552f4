"""Long commands that stay watchable: output to a log file, a sign of life every few seconds.

For what calls debootstrap, docker and buildah. It decides nothing about what is run; when a command fails it raises
with the last lines of its log, so that nobody has to look for the file first.
"""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from e2e_cluster.errors import ClusterError
from e2e_cluster.progress import Report

HEARTBEAT = 10.0
"""Seconds between two signs of life of a command that is still running."""
LAST_LINES = 25


class CommandError(ClusterError):
    """A command ended with a fault; the text ends with its last words."""


def run_logged(
    title: str, command: Sequence[str], log: Path, report: Report, *, environ: Mapping[str, str] | None = None
) -> None:
    """Run a command with its output appended to a log.

    Raises:
        CommandError: the command ended with a fault.

    """
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environ
        )
        try:
            code = None
            while code is None:
                try:
                    code = process.wait(timeout=HEARTBEAT)
                except subprocess.TimeoutExpired:
                    report(f"{title}: still at it after {time.monotonic() - began:.0f} s")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        raise CommandError(f"{title}: {command[0]} ended with {code}. The end of {log}:\n{tail}")

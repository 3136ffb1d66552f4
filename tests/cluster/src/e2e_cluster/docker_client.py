"""The docker command, and through it one Docker daemon: whether it answers, and what its client can do.

A `DockerClient` is the environment with which `docker`, and kind above it, reach a daemon: by default the machine's, or
the one that `docker_daemon` runs. It starts nothing and installs nothing.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

ANSWER_WITHIN = 20.0
"""Seconds within which a daemon says that it is there."""
NEEDS_BUILDX = 23
"""The major version from which on the client has no BuildKit of its own, and asks its plugin buildx."""


@dataclass(frozen=True)
class DockerClient:
    """How to reach a daemon."""

    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))

    def run(
        self, *arguments: str, stdin: str | None = None, timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run docker; a command that is not there counts as one that fails.

        Raises:
            subprocess.TimeoutExpired: it took longer than `timeout` seconds.

        """
        command = ["docker", *arguments]
        if shutil.which("docker", path=self.environ.get("PATH")) is None:
            return subprocess.CompletedProcess(command, 127, "", "there is no docker on the path")
        return subprocess.run(
            command,
            input=stdin or "",
            env=self.environ,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout,
        )

    def succeeds(self, *arguments: str) -> bool:
        """Whether docker does this."""
        return self.run(*arguments).returncode == 0

    def refusal(self) -> str | None:
        """Why no daemon answers, in docker's own words; None where one does."""
        try:
            # With --format the client answers 0 even without a daemon.
            done = self.run("info", timeout=ANSWER_WITHIN)
        except subprocess.TimeoutExpired:
            return f"`docker info` said nothing within {ANSWER_WITHIN:.0f} s"
        return None if done.returncode == 0 else last_words(done.stderr)

    def answers(self) -> bool:
        """Whether there is a daemon to talk to."""
        return self.refusal() is None

    def has_image(self, ref: str) -> bool:
        """Whether the daemon has an image."""
        return self.succeeds("image", "inspect", ref)

    def builds_with_buildkit(self) -> bool:
        """Whether this client builds Dockerfiles with `RUN --mount`."""
        version = self.run("version", "--format", "{{.Client.Version}}").stdout
        return has_own_buildkit(version) or self.succeeds("buildx", "version")


def has_own_buildkit(version: str) -> bool:
    """Whether a client of this version has BuildKit itself, such as ``20.10.24+dfsg1``."""
    found = re.match(r"\s*(\d+)\.", version)
    return found is not None and int(found[1]) < NEEDS_BUILDX


def last_words(messages: str) -> str:
    """The last line of what a command said that has words in it."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"

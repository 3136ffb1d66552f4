"""What both kinds of cluster offer, and which one this machine gets.

Everything above (the command line, tests, the demo) speaks to a ``Provider`` and does not know which it
has. ``kind`` where Docker answers, otherwise ``local``; PATIO_CLUSTER_PROVIDER or an argument decides
differently. A Docker daemon that ``kind`` started by itself counts as one that answers, dead or alive: so every
command finds the cluster that is there, and ``down`` takes away what is left of it.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e_cluster.binaries import Binaries
from e2e_cluster.docker_client import DockerClient
from e2e_cluster.docker_daemon import OwnDaemon
from e2e_cluster.errors import ClusterError
from e2e_cluster.progress import Report

NAMES = ("kind", "local")
VARIABLE = "PATIO_CLUSTER_PROVIDER"


@dataclass(frozen=True)
class Status:
    """Whether a cluster can be used, and what there is of it, line by line."""

    usable: bool
    lines: tuple[str, ...]


class Provider(Protocol):
    """A cluster of this machine."""

    @property
    def name(self) -> str:
        """``kind`` or ``local``."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; the file is there while the cluster is up."""

    @property
    def machine_address(self) -> str:
        """An address of this machine that pods can reach."""

    def tools(self) -> Binaries:
        """Install what the machine lacks and build the binaries, without starting anything."""

    def up(self) -> None:
        """Make a usable cluster be there: reuse a healthy one, otherwise clear up and start."""

    def down(self) -> None:
        """Leave nothing of the cluster behind, whatever state it is in."""

    def load_images(self, images: Sequence[str]) -> None:
        """Put images on the node: archives (docker-archive), or names known to Docker or buildah."""

    def restart_kubelet(self) -> None:
        """Kill the node's kubelet and have it started again; return when the node is ready."""

    def status(self) -> Status:
        """What there is."""


def docker_answers() -> bool:
    """Whether there is a Docker daemon to talk to, or something of one that was started for kind."""
    return OwnDaemon().exists() or DockerClient().answers()


def choose(
    requested: str | None = None,
    environ: Mapping[str, str] = os.environ,
    has_docker: Callable[[], bool] = docker_answers,
) -> str:
    """The provider's name for this machine."""
    name = requested or environ.get(VARIABLE)
    if name and name not in NAMES:
        raise ClusterError(f"there is no provider {name!r}: choose one of {', '.join(NAMES)}")
    return name or ("kind" if has_docker() else "local")


def save_image(image: str, archive: Path, report: Report) -> None:
    """Write an image that Docker or buildah knows into an archive."""
    tried = []
    for command in (
        ["buildah", "push", image, f"docker-archive:{archive}:{image}"],
        ["docker", "save", "--output", str(archive), image],
    ):
        if shutil.which(command[0]) is None:
            continue
        report(f"exporting {image} with {command[0]}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        tried.append(f"{command[0]}: {done.stderr.strip().splitlines()[-1:] or 'failed'}")
        archive.unlink(missing_ok=True)
    raise ClusterError(f"no file and no known image {image!r} ({'; '.join(tried) or 'no buildah, no docker'})")

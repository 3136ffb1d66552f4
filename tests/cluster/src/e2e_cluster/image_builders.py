"""Docker and buildah behind one small interface: make a base, build a Dockerfile, save an archive.

`images` decides what is built and whether; this module only spells the two programs' commands. buildah gets a store of
its own under the cache, so that it never meddles with images of the machine, and its store can simply be deleted.
"""

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from e2e_cluster.docker_client import DockerClient
from e2e_cluster.errors import MachineError
from e2e_cluster.longrun import run_logged
from e2e_cluster.packages import Package, ensure_packages
from e2e_cluster.progress import Report


@dataclass(frozen=True)
class Build:
    """One build: a Dockerfile, its context, its arguments, and files that only its RUN lines may see."""

    ref: str
    dockerfile: Path
    context: Path
    arguments: Mapping[str, str]
    secrets: Mapping[str, Path]


class ImageBuilder(Protocol):
    """What is needed of a program that builds images."""

    @property
    def name(self) -> str:
        """As people call it."""

    def tidy(self) -> None:
        """Clear what a killed build left."""

    def can_get(self, ref: str) -> bool:
        """Whether the image is here, or can be fetched now."""

    def import_root(self, archive: Path, ref: str, log: Path, report: Report) -> None:
        """Make an image of one layer from the archive of a root file system."""

    def build(self, build: Build, log: Path, report: Report) -> None:
        """Build an image, reusing the layers that have not changed."""

    def save(self, ref: str, archive: Path, log: Path, report: Report) -> None:
        """Write the image as a docker-archive that containerd and kind can load."""


class Docker:
    """The Docker daemon."""

    name = "docker"

    def tidy(self) -> None:
        """Nothing to do: the daemon tidies up after its own builds."""

    def can_get(self, ref: str) -> bool:
        """Whether the image is here, or can be pulled."""
        return _succeeds(["docker", "image", "inspect", ref]) or _succeeds(["docker", "pull", "--quiet", ref])

    def import_root(self, archive: Path, ref: str, log: Path, report: Report) -> None:
        """Make an image of one layer."""
        run_logged(ref, ["docker", "import", str(archive), ref], log, report)

    def build(self, build: Build, log: Path, report: Report) -> None:
        """Build with BuildKit, which knows RUN --mount; on the machine's network, since not every daemon forwards."""
        command = ["docker", "build", "--progress=plain", "--network=host", *_options(build), str(build.context)]
        run_logged(build.ref, command, log, report, environ={**os.environ, "DOCKER_BUILDKIT": "1"})

    def save(self, ref: str, archive: Path, log: Path, report: Report) -> None:
        """Write the docker-archive."""
        run_logged(ref, ["docker", "save", "--output", str(archive), ref], log, report)


@dataclass(frozen=True)
class Buildah:
    """buildah without a daemon. Chroot isolation: works in containers and machines that forbid new namespaces."""

    store: Path
    name: str = "buildah"

    def _buildah(self, *arguments: str) -> list[str]:
        # overlay on a native file system commits a layer in the time vfs needs to copy the first of them
        place = ["--root", str(self.store / "root"), "--runroot", str(self.store / "run")]
        return ["buildah", "--storage-driver", "overlay", *place, *arguments]

    def tidy(self) -> None:
        """Remove working containers of builds that were killed, and with them their mounts."""
        if self.store.exists():
            subprocess.run(self._buildah("rm", "--all"), check=False, capture_output=True)

    def can_get(self, ref: str) -> bool:
        """Whether the image is in the store, or can be pulled."""
        return _succeeds(self._buildah("inspect", "--type", "image", ref)) or (
            not ref.startswith("localhost/") and _succeeds(self._buildah("pull", "--quiet", ref))
        )

    def import_root(self, archive: Path, ref: str, log: Path, report: Report) -> None:
        """Make an image of one layer."""
        made = subprocess.run(self._buildah("from", "scratch"), check=True, capture_output=True, text=True)
        container = made.stdout.strip()
        run_logged(ref, self._buildah("add", container, str(archive), "/"), log, report)
        run_logged(ref, self._buildah("commit", "--rm", container, ref), log, report)

    def build(self, build: Build, log: Path, report: Report) -> None:
        """Build with the layers of earlier builds."""
        how = ["--isolation", "chroot", "--network", "host", "--layers", "--pull=false"]
        run_logged(build.ref, self._buildah("bud", *how, *_options(build), str(build.context)), log, report)

    def save(self, ref: str, archive: Path, log: Path, report: Report) -> None:
        """Write the docker-archive."""
        run_logged(ref, self._buildah("push", "--quiet", ref, f"docker-archive:{archive}:{ref}"), log, report)


def find_builder(cache: Path, report: Report, docker: DockerClient | None = None) -> ImageBuilder:
    """Docker where the machine's daemon answers and the client can build, otherwise buildah.

    Raises:
        MachineError: neither is there, nor can buildah be installed.

    """
    docker = docker or DockerClient()
    remedy = "install Docker"
    lacking = "no Docker daemon answers"
    if docker.answers():
        if docker.builds_with_buildkit():
            return Docker()
        lacking = "Docker answers, but its client has no buildx, and so cannot build"
        remedy = "install its package docker-buildx (from Docker's own packages: docker-buildx-plugin)"
        report(f"images: {lacking}; building with buildah. To build with Docker, {remedy}.")
    try:
        ensure_packages([Package("buildah", "buildah")], report)
    except MachineError as error:
        raise MachineError(f"images: {lacking}: {remedy}. Or else buildah builds them: {error}") from error
    if os.geteuid() != 0:
        raise MachineError(f"images: {lacking}: {remedy}. Building with buildah here needs root.")
    return Buildah(cache / "buildah")


def _options(build: Build) -> list[str]:
    options = ["--file", str(build.dockerfile), "--tag", build.ref]
    for name, value in build.arguments.items():
        options += ["--build-arg", f"{name}={value}"]
    for name, path in build.secrets.items():
        options += ["--secret", f"id={name},src={path}"]
    return options


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True).returncode == 0

"""System packages: which are needed, which are missing, and installing them.

A package counts as present when the file that is used from it is there, wherever it came from. Root on
Debian or Ubuntu gets what is missing from apt-get; anybody else gets one message that names all of it.
Nothing here starts a service.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.errors import MachineError
from e2e_cluster.progress import Report

CNI_PLUGINS = Path("/usr/lib/cni")


@dataclass(frozen=True)
class Package:
    """A Debian package and the command, or the file, that it is needed for."""

    name: str
    provides: str


CLUSTER_PACKAGES = (
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package("containernetworking-plugins", str(CNI_PLUGINS / "ptp")),
    Package("nftables", "nft"),
    Package("iproute2", "ip"),
)
IMAGE_PACKAGES = (
    Package("buildah", "buildah"),
    Package("debootstrap", "debootstrap"),
)


def is_present(provides: str) -> bool:
    """Whether a command is on the path (or in the system's folders), or a file exists."""
    if provides.startswith("/"):
        return Path(provides).exists()
    return shutil.which(provides, path=system_path()) is not None


def system_path() -> str:
    """The caller's path, completed by the folders where system commands live."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])


def missing(packages: Iterable[Package], present: Callable[[str], bool] = is_present) -> tuple[Package, ...]:
    """Those whose file or command is not there."""
    return tuple(package for package in packages if not present(package.provides))


def ensure_packages(packages: Iterable[Package], report: Report) -> None:
    """Install what is missing, or say in one message all that is."""
    lacking = missing(packages)
    if not lacking:
        return
    names = [package.name for package in lacking]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MachineError(
            f"missing on this machine: {', '.join(f'{p.name} (for {p.provides})' for p in lacking)}. "
            f"Install them (Debian, Ubuntu: sudo apt-get install {' '.join(names)}), or run as root there."
        )
    report(f"installing {', '.join(names)} with apt-get")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *names],
    ):
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise MachineError(f"`{' '.join(command)}` failed:\n{tail}")
    if still := missing(lacking):
        raise MachineError("installed, but still not found: " + ", ".join(f"{p.provides} of {p.name}" for p in still))

"""The base of our images where no public one can be had: a small Debian with Python, made by debootstrap.

`images` asks for it when there is no Docker, or when the public base cannot be pulled; an `ImageBuilder` turns the
archive made here into an image. The archive is kept under the cache by what went into it. Nothing of this machine
(certificates, proxies, package lists) is left in it.
"""

import hashlib
import os
from pathlib import Path

from e2e_cluster.errors import MachineError
from e2e_cluster.longrun import run_logged
from e2e_cluster.mounts import remove_folder
from e2e_cluster.packages import Package, ensure_packages
from e2e_cluster.progress import Report

SUITE = "bookworm"
PACKAGES = ("ca-certificates", "python3", "python3-venv")
LEFT_OUT = (
    "./debootstrap",
    "./dev/*",
    "./proc/*",
    "./sys/*",
    "./usr/share/doc/*",
    "./usr/share/info/*",
    "./usr/share/locale/*",
    "./usr/share/man/*",
    "./var/cache/apt/*",
    "./var/lib/apt/lists/*",
    "./var/log/*",
)
"""What a container never reads: half of what debootstrap unpacks."""


def base_key() -> str:
    """The identity of the base: changes with what goes into it."""
    recipe = "\n".join((SUITE, *PACKAGES, *LEFT_OUT))
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def root_archive(cache: Path, report: Report) -> Path:
    """The archive of the base's root file system, made when it is not in the cache (about a minute).

    Raises:
        MachineError: debootstrap is missing and cannot be installed, or this is not root.
        CommandError: debootstrap failed.

    """
    folder = cache / "base"
    archive = folder / f"{base_key()}.tar"
    if archive.exists():
        return archive
    if os.geteuid() != 0:
        raise MachineError(
            "base image: debootstrap needs root. Run as root, or name an image with --base or PATIO_BASE_IMAGE."
        )
    ensure_packages([Package("debootstrap", "debootstrap")], report)
    root, log = folder / "root", folder / "debootstrap.log"
    remove_folder(root)  # a killed debootstrap leaves it, with /proc and /sys mounted
    folder.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    report(f"base image: a Debian {SUITE} with Python by debootstrap, once, about a minute")
    include = f"--include={','.join(PACKAGES)}"
    run_logged("base image", ["debootstrap", "--variant=minbase", include, SUITE, str(root)], log, report)
    return pack(root, archive, "base image", log, report)


def pack(root: Path, archive: Path, label: str, log: Path, report: Report) -> Path:
    """Make an archive of a root file system, without what a container never reads, and remove the folder."""
    partial = archive.with_suffix(".partial")
    left_out = [f"--exclude={pattern}" for pattern in LEFT_OUT]
    tar = ["tar", "--directory", str(root), "--one-file-system", "--numeric-owner", *left_out]
    run_logged(label, [*tar, "--create", "--file", str(partial), "."], log, report)
    partial.replace(archive)
    remove_folder(root)
    return archive

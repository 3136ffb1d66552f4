"""Mounts below the state folder: listing and removing them.

The one thing here that must never go wrong: a folder is deleted only when nothing is mounted below it
any more, since a pod's hostPath may be mounted there and belongs to somebody else.
"""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.errors import ResidueError

MOUNTINFO = Path("/proc/self/mountinfo")
ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\134": "\\"}
ROUNDS = 5


@dataclass(frozen=True)
class Mount:
    """A mount: where, and the file system's options (the layers, for an overlay)."""

    point: str
    options: str


def parse_mounts(mountinfo: str) -> list[Mount]:
    """The lines of a ``mountinfo`` file, in its order: later mounts cover earlier ones."""
    mounts = []
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        point, options = left.split(" ")[4], right.split(" ", 2)[-1]
        for escape, meaning in ESCAPES.items():
            point = point.replace(escape, meaning)
        mounts.append(Mount(point, options))
    return mounts


def mounts_below(folder: Path, mountinfo: str) -> list[str]:
    """The mount points at or below a folder, the last mounted first."""
    points = [mount.point for mount in parse_mounts(mountinfo)]
    return [point for point in reversed(points) if point == str(folder) or point.startswith(f"{folder}/")]


def unmount_below(folder: Path) -> list[str]:
    """Unmount everything at or below a folder; answers with what could not be."""
    for _ in range(ROUNDS):
        points = mounts_below(folder, MOUNTINFO.read_text())
        for point in points:
            # Detached: a process that dies slowly keeps its own view without keeping the mount.
            subprocess.run(["umount", "--lazy", "--no-canonicalize", point], capture_output=True, check=False)
        if not points:
            break
    return mounts_below(folder, MOUNTINFO.read_text())


def remove_folder(folder: Path) -> None:
    """Delete a folder, unless something is mounted below it."""
    if mounted := unmount_below(folder):
        raise ResidueError(f"not deleting {folder}: still mounted below it: {', '.join(mounted)}")
    if folder.exists():
        shutil.rmtree(folder)

"""The control groups that containers leave behind.

containerd puts each container into ``k8s.io/ID`` of every hierarchy. They bear no name of ours, so what counts
is that nobody is in them any more: removing an empty group takes nothing from anybody, and the kernel
refuses to remove any other. Our own Docker daemon has a group with a name of ours, and all of its containers in it.
"""

import contextlib
import os
import re
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
PARENT = "k8s.io"
CONTAINER = re.compile(r"[0-9a-f]{64}")


def deserted_cgroups(cgroups: Path = CGROUPS) -> list[Path]:
    """The containers' groups without processes, and their parents where nothing else is in them."""
    found = []
    for parent in (cgroups / PARENT, *sorted(cgroups.glob(f"*/{PARENT}"))):
        if not parent.is_dir():
            continue
        children = [child for child in sorted(parent.iterdir()) if child.is_dir()]
        deserted = [child for child in children if CONTAINER.fullmatch(child.name) and not _members(child)]
        found += deserted
        if len(deserted) == len(children) and not _members(parent, below=False):
            found.append(parent)
    return found


def remove_deserted_cgroups(cgroups: Path = CGROUPS) -> None:
    """Remove them, as far as the kernel lets go of them yet."""
    for group in deserted_cgroups(cgroups):
        remove_group(group)


def groups_named(name: str, cgroups: Path = CGROUPS) -> list[Path]:
    """The groups of this name at the top of every hierarchy."""
    return [group for group in (cgroups / name, *sorted(cgroups.glob(f"*/{name}"))) if group.is_dir()]


def remove_group(group: Path) -> None:
    """Remove a group and those in it, as far as nobody is in them."""
    for folder, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _members(group: Path, *, below: bool = True) -> bool:
    lists = group.rglob("cgroup.procs") if below else [group / "cgroup.procs"]
    try:
        return any(file.read_text().strip() for file in lists)
    except OSError:
        # Gone while it was looked at.
        return False

"""Kernel settings that a node changes: remembered before, put back after.

The kubelet sets some of them by itself and the CNI plugin switches forwarding on; kind's node is a container that may
write them too, and its systemd sets some more. What they were is kept in a file until ``restore``. A setting that this
kernel does not have is left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path

SYSCTLS = Path("/proc/sys")
CHANGED = (
    "net/ipv4/ip_forward",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
CHANGED_IN_CONTAINER = (
    # A container has a network of its own: its settings below `net` are not this machine's.
    *(name for name in CHANGED if not name.startswith("net/")),
    # Systemd sets these as the first process of a container that may.
    "fs/file-max",
    "fs/nr_open",
    "fs/protected_fifos",
    "fs/protected_hardlinks",
    "fs/protected_regular",
    "fs/protected_symlinks",
    "kernel/pid_max",
)
"""What a node changes that is a privileged container."""


def remember(file: Path, sysctls: Path = SYSCTLS, names: Sequence[str] = CHANGED) -> None:
    """Write down the settings as they are now, unless that was done before."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {name: (sysctls / name).read_text().strip() for name in names if (sysctls / name).exists()}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(values))
        partial.replace(file)


def enable_forwarding(sysctls: Path = SYSCTLS) -> None:
    """Let this machine route between its pods."""
    (sysctls / "net/ipv4/ip_forward").write_text("1")


def restore(file: Path, sysctls: Path = SYSCTLS) -> list[str]:
    """Put the remembered settings back; without a memory there is nothing to put back.

    Returns:
        The settings that cannot be put back, as ``sysctl --write`` takes them: only root may, in a container not all.

    """
    if not file.exists():
        return []
    refused = []
    for name, value in json.loads(file.read_text()).items():
        if name in (*CHANGED, *CHANGED_IN_CONTAINER) and (sysctls / name).read_text().strip() != value:
            try:
                (sysctls / name).write_text(value)
            except OSError:
                refused.append(f"{name.replace('/', '.')}={value}")
    return refused

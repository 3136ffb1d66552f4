"""Kernel settings that a node changes: remembered before, put back after.

The kubelet sets some of them by itself and the CNI plugin switches forwarding on; what they were is kept
in a file of the state folder until ``restore``. A setting that this kernel does not have is left out.
"""

import contextlib
import json
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


def remember(file: Path, sysctls: Path = SYSCTLS) -> None:
    """Write down the settings as they are now, unless that was done before."""
    if not file.exists():
        values = {name: (sysctls / name).read_text().strip() for name in CHANGED if (sysctls / name).exists()}
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(values))
        partial.replace(file)


def enable_forwarding(sysctls: Path = SYSCTLS) -> None:
    """Let this machine route between its pods."""
    (sysctls / "net/ipv4/ip_forward").write_text("1")


def restore(file: Path, sysctls: Path = SYSCTLS) -> None:
    """Put the remembered settings back; without a memory there is nothing to put back."""
    if not file.exists():
        return
    for name, value in json.loads(file.read_text()).items():
        if name in CHANGED and (sysctls / name).read_text().strip() != value:
            # A container may be allowed to change some settings only.
            with contextlib.suppress(OSError):
                (sysctls / name).write_text(value)

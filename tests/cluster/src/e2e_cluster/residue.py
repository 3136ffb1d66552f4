"""Everything a cluster leaves on a machine: finding it, removing it.

``down``, the clean-up before an ``up``, and the tests all ask here. Nothing is looked up in records: what
counts is what the kernel and the file system show now, so it makes no difference how a cluster ended, or
how much of its state folder is left. New kinds of traces are added to ``find_residue`` first.
"""

import contextlib
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from e2e_cluster import kernel, network
from e2e_cluster.cgroups import deserted_cgroups, remove_deserted_cgroups
from e2e_cluster.configuration import CNI_NETWORK
from e2e_cluster.errors import ResidueError
from e2e_cluster.mounts import MOUNTINFO, mounts_below, remove_folder
from e2e_cluster.places import Folders
from e2e_cluster.processes import find_cluster_processes, kill_cluster_processes

# containerd and its libraries fix these paths; other users of them may be on the machine.
SHIM_SOCKETS = Path("/run/containerd/s")
CNI_RESULTS = Path("/var/lib/cni/results")
# The kubelet fixes these.
KUBELET_LINKS = Path("/var/log/containers")
DEVICE_PLUGINS = Path("/var/lib/kubelet/device-plugins")
DEVICE_PLUGIN_FILES = ("kubelet.sock", "kubelet_internal_checkpoint", "DEPRECATION")
SETTLE = 10.0
POLL = 0.1


def find_residue(folders: Folders) -> list[str]:
    """What is there of a cluster, each item in words; empty when nothing is."""
    root = folders.root
    return [
        *map(str, find_cluster_processes(root)),
        *(f"mount {point}" for point in mounts_below(root, MOUNTINFO.read_text())),
        *(f"interface {name}" for name in network.leftover_interfaces()),
        *(f"nftables table {family} {name}" for family, name in network.leftover_tables()),
        *(f"cgroup {path}" for path in deserted_cgroups()),
        *(f"file {path}" for path in _fixed_files(root)),
        *([f"folder {root}"] if root.exists() else []),
    ]


def remove_residue(folders: Folders) -> None:
    """Remove all of it, in the order in which nothing comes back, or say what could not be."""
    survivors = kill_cluster_processes(folders.root)
    if survivors:
        raise ResidueError("cannot be killed: " + "; ".join(map(str, survivors)))
    network.lower_network()
    kernel.restore(folders.kernel_settings)
    for path in _fixed_files(folders.root):
        path.unlink(missing_ok=True)
    for folder in (SHIM_SOCKETS, CNI_RESULTS, KUBELET_LINKS, DEVICE_PLUGINS):
        remove_empty(folder)
        remove_empty(folder.parent)
    remove_folder(folders.root)
    # The kernel takes network namespaces and control groups down in its own time.
    end = time.monotonic() + SETTLE
    while remaining := find_residue(folders):
        if time.monotonic() > end:
            raise ResidueError("left after removing the cluster:\n" + "\n".join(f"  {x}" for x in remaining))
        remove_deserted_cgroups()
        network.lower_network()
        time.sleep(POLL)


def _fixed_files(root: Path) -> list[Path]:
    links = [path for path in _entries(KUBELET_LINKS) if str(path.readlink()).startswith(f"{root}/")]
    results = [path for path in _entries(CNI_RESULTS) if path.name in our_cni_results(_names(CNI_RESULTS))]
    devices = DEVICE_PLUGINS / DEVICE_PLUGIN_FILES[0]
    plugins = [DEVICE_PLUGINS / name for name in DEVICE_PLUGIN_FILES] if _is_deserted(devices) else []
    return [*links, *results, *deserted_shim_sockets(), *(path for path in plugins if path.exists())]


def deserted_shim_sockets() -> list[Path]:
    """Sockets of containerd's shims with nobody behind them."""
    return [path for path in _entries(SHIM_SOCKETS) if _is_deserted(path)]


def our_cni_results(names: Iterable[str]) -> set[str]:
    """Which cached CNI results are ours: those of our network, and the same containers' loopback."""
    all_names = set(names)
    own_names = {name for name in all_names if name.startswith(f"{CNI_NETWORK}-")}
    containers = {name.removeprefix(f"{CNI_NETWORK}-").removesuffix("-eth0") for name in own_names}
    return own_names | ({f"cni-loopback-{container}-lo" for container in containers} & all_names)


def _names(folder: Path) -> list[str]:
    return [path.name for path in _entries(folder)]


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_deserted(path: Path) -> bool:
    """Whether a socket file has nobody behind it, and so is nobody's any more."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False


def remove_empty(folder: Path) -> None:
    """Remove a folder if nothing is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()

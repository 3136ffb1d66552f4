"""Where things are kept: the cache, the state of a local cluster, the pinned Go modules.

The state folder is one per machine and not one per user, since what it describes (an interface, nftables
tables, a network range) exists once per machine too. It is on disk, because images live in it, and its
path is short, because a Unix socket's path ends after 107 characters.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"
STATE = Path("/var/lib/patio-cluster")


def cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """``$PATIO_CACHE``, else ``patio`` in the user's cache folder."""
    if chosen := environ.get("PATIO_CACHE"):
        return Path(chosen).expanduser().resolve()
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base).expanduser().resolve() / "patio"


@dataclass(frozen=True)
class Folders:
    """The parts of the state folder of a local cluster."""

    root: Path = STATE

    @property
    def certificates(self) -> Path:
        """The authority, certificates and kubeconfigs of the components."""
        return self.root / "pki"

    @property
    def configuration(self) -> Path:
        """The components' configuration files."""
        return self.root / "config"

    @property
    def logs(self) -> Path:
        """One log per component."""
        return self.root / "logs"

    @property
    def pod_logs(self) -> Path:
        """The containers' logs, as kept by the kubelet."""
        return self.root / "pod-logs"

    @property
    def kubeconfig(self) -> Path:
        """For people and tests: the cluster's administrator."""
        return self.root / "kubeconfig"

    @property
    def etcd(self) -> Path:
        """Etcd's data."""
        return self.root / "etcd"

    @property
    def kubelet(self) -> Path:
        """The kubelet's root: volumes, plugins, pods."""
        return self.root / "kubelet"

    @property
    def volume_plugins(self) -> Path:
        """Where volume plugins would be; there are none."""
        return self.root / "volume-plugins"

    @property
    def containerd(self) -> Path:
        """Root and state of our own containerd."""
        return self.root / "containerd"

    @property
    def containerd_socket(self) -> Path:
        """Where containerd listens."""
        return self.containerd / "containerd.sock"

    @property
    def cni(self) -> Path:
        """CNI's configuration and address leases."""
        return self.root / "cni"

    @property
    def images(self) -> Path:
        """Which image was loaded from which content."""
        return self.root / "images"

    @property
    def kernel_settings(self) -> Path:
        """The kernel's settings as they were before the cluster changed them."""
        return self.root / "sysctls.json"

    @property
    def ready_mark(self) -> Path:
        """Written last by ``up``: the fingerprint of the plan that became ready."""
        return self.root / "ready"

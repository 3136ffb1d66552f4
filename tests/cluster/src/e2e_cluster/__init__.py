"""A real Kubernetes cluster for tests and demo.

What others use is here: ``connect`` answers with this machine's provider (``up``, ``down``, ``load_images``,
``kubeconfig``, ``tools``, ``status``), ``clients`` with kubectl and helm, and ``control_plane`` is a bare
API server for tests without a node. The command line is ``python -m e2e_cluster``.
"""

from e2e_cluster.binaries import Binaries, ensure_binaries
from e2e_cluster.control_plane import ControlPlane, control_plane
from e2e_cluster.errors import ClusterError
from e2e_cluster.kind import KindProvider
from e2e_cluster.local import LocalProvider
from e2e_cluster.pins import CLIENTS
from e2e_cluster.progress import Report, silent
from e2e_cluster.provider import Provider, choose

__all__ = [
    "Binaries",
    "ClusterError",
    "ControlPlane",
    "Provider",
    "clients",
    "connect",
    "control_plane",
    "ensure_binaries",
]


def connect(provider: str | None = None, report: Report = silent) -> Provider:
    """This machine's provider; nothing is started by asking."""
    return KindProvider(report) if choose(provider) == "kind" else LocalProvider(report)


def clients(report: Report = silent) -> Binaries:
    """The kubectl and helm that fit the cluster."""
    return ensure_binaries(CLIENTS, report)

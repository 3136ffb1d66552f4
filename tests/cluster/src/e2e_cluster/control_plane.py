"""An API server of one's own: etcd and kube-apiserver alone, for tests that need no node.

``control_plane()`` starts both on this machine, without root and without touching anything outside one
temporary folder, and takes both away at the end; if the caller is killed, the kernel ends them too. Nothing
else of Kubernetes runs: no controllers (no garbage collection, no default service accounts), no pods.
"""

import datetime
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster import components
from e2e_cluster.binaries import Binaries, ensure_binaries
from e2e_cluster.certificates import ADMINISTRATORS, Authority, Pair
from e2e_cluster.components import ApiServerKeys
from e2e_cluster.pins import CONTROL_PLANE
from e2e_cluster.probes import api_is_ready, listens, tls_context
from e2e_cluster.processes import start, wait_until
from inference_server.ports import free_port

LOOPBACK = "127.0.0.1"
SERVICES = "10.96.0.0/16"
DEADLINE = 60.0


@dataclass(frozen=True)
class ControlPlane:
    """A running API server."""

    server: str
    folder: Path
    binaries: Binaries
    authority: Authority
    admin: Pair

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig (``system:masters``)."""
        return self.folder / "kubeconfig"

    @property
    def ca(self) -> Path:
        """The certificate by which the server is known."""
        return self.authority.pair.certificate

    def kubeconfig_for(self, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig for any user or service account name, with the rights that RBAC gives it."""
        file = f"user-{user.replace(':', '-').replace('/', '-')}"
        client = self.authority.issue_client(file, user, groups)
        return self.authority.write_kubeconfig(self.folder / f"{file}.kubeconfig", self.server, client)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as the administrator; raises CalledProcessError with what it said."""
        done = subprocess.run(
            [str(self.binaries.kubectl), f"--kubeconfig={self.kubeconfig}", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout


@contextmanager
def control_plane(binaries: Binaries | None = None) -> Iterator[ControlPlane]:
    """Etcd and an API server for as long as the context lasts."""
    binaries = binaries or ensure_binaries(CONTROL_PLANE)
    # The folder's name is short for the sake of etcd's socket.
    with tempfile.TemporaryDirectory(prefix="patio-api-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            yield _start(binaries, folder, running)
        finally:
            for process in reversed(running.values()):
                process.kill()
                process.wait()


def _start(binaries: Binaries, folder: Path, running: dict[str, subprocess.Popen[bytes]]) -> ControlPlane:
    etcd_socket, port = folder / "etcd.sock", free_port()
    server = f"https://{LOOPBACK}:{port}"
    authority = Authority(folder / "pki", datetime.datetime.now(datetime.UTC))
    keys = ApiServerKeys(
        authority=authority.pair.certificate,
        server=authority.issue_server("apiserver", "kube-apiserver", [LOOPBACK, "localhost"]),
        service_accounts=authority.make_signing_key("service-accounts"),
        kubelet_client=authority.issue_client("kubelet-client", "kubelet-client"),
    )
    admin = authority.issue_client("admin", "admin", [ADMINISTRATORS])
    plane = ControlPlane(server, folder, binaries, authority, admin)
    authority.write_kubeconfig(plane.kubeconfig, server, admin)
    etcd = components.etcd(binaries["etcd"], folder / "etcd", etcd_socket)
    apiserver = components.apiserver(
        binaries["kube-apiserver"],
        etcd_socket=etcd_socket,
        keys=keys,
        address=LOOPBACK,
        port=port,
        service_range=SERVICES,
        extra={
            # Loopback is no endpoint that a Service may have.
            "endpoint-reconciler-type": "none",
            # It would refuse every pod until a controller has made service accounts.
            "disable-admission-plugins": "ServiceAccount",
        },
    )
    running["etcd"] = start(etcd, folder / "etcd.log")
    wait_until("etcd answers", lambda: listens(etcd_socket), DEADLINE, running, folder)
    running["kube-apiserver"] = start(apiserver, folder / "kube-apiserver.log")
    context = tls_context(plane.ca, admin)
    wait_until("the API server is ready", lambda: api_is_ready(server, context), DEADLINE, running, folder)
    return plane

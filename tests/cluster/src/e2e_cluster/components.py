"""The command lines of the Kubernetes components. Pure: addresses and paths in, arguments out.

Shared by the local cluster (all of them) and by the bare control plane of the API tests (etcd and the
API server). Starting, watching and stopping is done by ``processes`` and its callers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.certificates import Pair

CLUSTER_DOMAIN = "cluster.local"
ISSUER = f"https://kubernetes.default.svc.{CLUSTER_DOMAIN}"


@dataclass(frozen=True)
class Component:
    """A process of the cluster: its name, which is also its log's, and its command."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True)
class ApiServerKeys:
    """What the API server needs from the authority."""

    authority: Path
    server: Pair
    service_accounts: Pair
    kubelet_client: Pair
    front_proxy: Pair | None = None
    """By which it is known to the API servers that it passes requests on to; without it, it passes on none."""


FRONT_PROXY = "front-proxy"
"""The one name in a certificate that may speak for other users."""


def etcd(binary: Path, data: Path, socket: Path) -> Component:
    """Etcd for one cluster that may be lost at any time: no fsync, Unix sockets only.

    Sockets in a folder of root's: no port to collide with, and nobody else on the machine can reach what
    amounts to the cluster's administrator.
    """
    client, peer = f"unix://{socket}", f"unix://{socket}.peer"
    flags = {
        "name": "patio",
        "data-dir": data,
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"patio={peer}",
        "unsafe-no-fsync": "true",
        "log-level": "warn",
    }
    return Component("etcd", (str(binary), *_flags(flags)))


def apiserver(
    binary: Path,
    *,
    etcd_socket: Path,
    keys: ApiServerKeys,
    address: str,
    port: int,
    service_range: str,
    extra: Mapping[str, object],
) -> Component:
    """The API server: RBAC, client certificates and service account tokens, nobody anonymous but probes."""
    flags = {
        "etcd-servers": f"unix://{etcd_socket}",
        "bind-address": address,
        "advertise-address": address,
        "secure-port": port,
        "tls-cert-file": keys.server.certificate,
        "tls-private-key-file": keys.server.key,
        "client-ca-file": keys.authority,
        "kubelet-certificate-authority": keys.authority,
        "kubelet-client-certificate": keys.kubelet_client.certificate,
        "kubelet-client-key": keys.kubelet_client.key,
        "service-account-issuer": ISSUER,
        "service-account-key-file": keys.service_accounts.certificate,
        "service-account-signing-key-file": keys.service_accounts.key,
        "service-cluster-ip-range": service_range,
        # The node's name is known to nobody's name server.
        "kubelet-preferred-address-types": "InternalIP",
        # Components ask for these on and on. Without `front_proxy` no certificate carries the allowed name.
        "requestheader-client-ca-file": keys.authority,
        "requestheader-allowed-names": FRONT_PROXY,
        "authorization-mode": "Node,RBAC",
        "allow-privileged": "true",
        "profiling": "false",
        **(_aggregation(keys.front_proxy) if keys.front_proxy else {}),
        **extra,
    }
    return Component("kube-apiserver", (str(binary), *_flags(flags)))


def _aggregation(front_proxy: Pair) -> dict[str, object]:
    return {
        "proxy-client-cert-file": front_proxy.certificate,
        "proxy-client-key-file": front_proxy.key,
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
    }


def controller_manager(
    binary: Path,
    *,
    kubeconfig: Path,
    address: str,
    authority: Path,
    service_accounts: Pair,
    volume_plugins: Path,
) -> Component:
    """The controllers, alone and therefore without leader election."""
    flags = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": address,
        "leader-elect": "false",
        "use-service-account-credentials": "true",
        "root-ca-file": authority,
        "service-account-private-key-file": service_accounts.key,
        # It makes the folder, by default below /usr/libexec.
        "flex-volume-plugin-dir": volume_plugins,
        "profiling": "false",
    }
    return Component("kube-controller-manager", (str(binary), *_flags(flags)))


def scheduler(binary: Path, *, kubeconfig: Path, address: str) -> Component:
    """The scheduler, alone and therefore without leader election."""
    flags = {
        "kubeconfig": kubeconfig,
        "authentication-kubeconfig": kubeconfig,
        "authorization-kubeconfig": kubeconfig,
        "bind-address": address,
        "leader-elect": "false",
        "profiling": "false",
    }
    return Component("kube-scheduler", (str(binary), *_flags(flags)))


def kubelet(binary: Path, *, config: Path, kubeconfig: Path, root: Path, node: str, address: str) -> Component:
    """The kubelet, with everything it keeps below ``root``."""
    flags = {
        "config": config,
        "kubeconfig": kubeconfig,
        "root-dir": root,
        "cert-dir": root / "pki",
        "hostname-override": node,
        "node-ip": address,
    }
    return Component("kubelet", (str(binary), *_flags(flags)))


def kube_proxy(binary: Path, *, config: Path) -> Component:
    """kube-proxy; all of its settings are in its file."""
    return Component("kube-proxy", (str(binary), f"--config={config}"))


def containerd(binary: Path, *, config: Path) -> Component:
    """Our own containerd; all of its settings are in its file."""
    return Component("containerd", (str(binary), f"--config={config}"))


def coredns(binary: Path, *, config: Path) -> Component:
    """CoreDNS as a process of the host."""
    return Component("coredns", (str(binary), "-conf", str(config)))


def _flags(flags: Mapping[str, object]) -> list[str]:
    return [f"--{name}={value}" for name, value in flags.items()]

"""The configuration files of a local cluster. Pure: folders in, texts out.

Every path in them lies in the state folder, so that removing the cluster is removing one folder. Why a
setting is as it is stands beside it; ``docs/project/testing-cluster.md`` tells the whole.
"""

import json
from pathlib import Path

from e2e_cluster import network
from e2e_cluster.components import CLUSTER_DOMAIN
from e2e_cluster.packages import CNI_PLUGINS
from e2e_cluster.places import Folders

NODE_NAME = "patio"
CNI_NETWORK = "patio"
PAUSE_IMAGE = "ghcr.io/patio/pause:1"
DNS_PORT = 1053
RESTART_BACKOFF = "2s"


def containerd(folders: Folders) -> str:
    """A containerd beside any other: own root, state, sockets, runc state."""
    base = folders.containerd
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{folders.containerd_socket}"

[{cri}]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE nobody may lower an OOM score, and runc fails to start.
restrict_oom_score_adj = true
# Not /run/netns: found and removed with the state folder.
netns_mounts_under_state_dir = true
stream_server_address = "127.0.0.1"

[{cri}.cni]
bin_dir = "{CNI_PLUGINS}"
conf_dir = "{folders.cni}/conf"

[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[{cri}.containerd.runtimes.runc.options]
Root = "{base}/runc"
SystemdCgroup = false
"""


def cni(folders: Folders) -> str:
    """Pods' links: routed, no masquerading and no host ports, hence no iptables."""
    return _json(
        {
            "cniVersion": "0.4.0",
            "name": CNI_NETWORK,
            "plugins": [
                {
                    "type": "ptp",
                    "ipMasq": False,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": f"{folders.cni}/leases",
                        "ranges": [[{"subnet": network.PODS}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
    )


def kubelet(folders: Folders, authority: Path, certificate: Path, key: Path) -> str:
    """A kubelet for a shared machine: reserves nothing, evicts nothing, deletes no image."""
    return _json(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": network.NODE,
            "healthzBindAddress": network.NODE,
            "tlsCertFile": str(certificate),
            "tlsPrivateKeyFile": str(key),
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(authority)},
            },
            "containerRuntimeEndpoint": f"unix://{folders.containerd_socket}",
            "podLogsDir": str(folders.pod_logs),
            "volumePluginDir": str(folders.volume_plugins),
            "clusterDNS": [network.DNS_SERVICE],
            "clusterDomain": CLUSTER_DOMAIN,
            "resolvConf": str(folders.configuration / "resolv.conf"),
            # Kubernetes 1.34 has the first two switched off on cgroup v1, which many machines still boot.
            "failCgroupV1": False,
            "failSwapOn": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "localStorageCapacityIsolation": False,
            "evictionHard": {
                "memory.available": "0%",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            # Lowering it needs CAP_SYS_RESOURCE.
            "oomScoreAdj": 0,
            # They are in iptables, which nothing here uses.
            "makeIPTablesUtilChains": False,
            # Tests kill engines again and again; nobody gains from waiting up to five minutes.
            "featureGates": {"KubeletCrashLoopBackOffMax": True},
            "crashLoopBackOff": {"maxContainerRestartPeriod": RESTART_BACKOFF},
        }
    )


def resolv_conf() -> str:
    """What pods inherit: nothing of this machine's search domains or name servers."""
    return f"nameserver {network.NODE}\n"


def kube_proxy(kubeconfig: Path) -> str:
    """Services by nftables, leaving connection tracking as it is on this machine."""
    return _json(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": NODE_NAME,
            "bindAddress": network.NODE,
            "healthzBindAddress": f"{network.NODE}:10256",
            "metricsBindAddress": f"{network.NODE}:10249",
            "clusterCIDR": network.PODS,
            "oomScoreAdj": 0,
            "conntrack": {
                "maxPerCore": 0,
                "min": 0,
                "tcpEstablishedTimeout": "0s",
                "tcpCloseWaitTimeout": "0s",
            },
            "nftables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
        }
    )


def corefile(kubeconfig: Path) -> str:
    """The cluster's names, and no others: nothing leaves this machine."""
    return f"""{CLUSTER_DOMAIN}:{DNS_PORT} in-addr.arpa:{DNS_PORT} {{
  bind {network.NODE}
  errors
  kubernetes {CLUSTER_DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
    pods insecure
    ttl 5
  }}
}}
.:{DNS_PORT} {{
  bind {network.NODE}
  template ANY ANY {{
    rcode NXDOMAIN
  }}
}}
"""


def bootstrap_objects() -> str:
    """The DNS Service with the endpoint outside of the cluster, and CoreDNS's permissions."""
    name = {"name": "system:coredns"}
    read = {"verbs": ["list", "watch"]}
    objects = [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": name,
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "endpoints"], **read},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], **read},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", **name}],
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
            "spec": {
                "clusterIP": network.DNS_SERVICE,
                "ports": [
                    {"name": "dns", "port": 53, "targetPort": DNS_PORT, "protocol": "UDP"},
                    {"name": "dns-tcp", "port": 53, "targetPort": DNS_PORT, "protocol": "TCP"},
                ],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-host",
                "namespace": "kube-system",
                "labels": {
                    "kubernetes.io/service-name": "kube-dns",
                    "endpointslice.kubernetes.io/managed-by": "e2e-cluster",
                },
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [network.NODE], "conditions": {"ready": True}}],
            "ports": [
                {"name": "dns", "port": DNS_PORT, "protocol": "UDP"},
                {"name": "dns-tcp", "port": DNS_PORT, "protocol": "TCP"},
            ],
        },
    ]
    return _json({"apiVersion": "v1", "kind": "List", "items": objects})


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"

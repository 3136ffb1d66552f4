"""What a node image of kind is made of when none can be had: the recipe, as data. Pure.

kind's own Dockerfile (`images/base` of its Go module) starts from Debian, adds files, switches units of systemd off and
on, and adds containerd and Kubernetes. This recipe does the same from what a Debian machine with Go can get: Debian's
containerd, runc and CNI plugins, and the binaries that `pins` has. `node_image` carries it out.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

SUITE = "bookworm"
PACKAGES = (
    *("systemd", "conntrack", "iptables", "nftables", "iproute2", "ethtool", "kmod", "procps", "ca-certificates"),
    *("containerd", "runc", "containernetworking-plugins"),
)
EXECUTABLE = ("usr/local/bin", "kind/bin")
"""Folders of kind's files whose files are programs."""
REMOVED = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "etc/systemd/system/*.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
    # Settings of the kernel, which is not the node's alone.
    "usr/lib/sysctl.d/*",
)
ENABLED = ("containerd", "undo-mount-hacks", "load-images", "kubelet")
BINARIES_IN_NODE = ("kubelet", "kubectl", "kubeadm")
LINKS = {
    "sbin/init": "/lib/systemd/systemd",
    "usr/local/bin/containerd": "/usr/bin/containerd",
    "opt/cni/bin": "/usr/lib/cni",
    # It registers formats with the kernel, which is not the node's alone.
    "etc/systemd/system/systemd-binfmt.service": "/dev/null",
    **{f"etc/systemd/system/multi-user.target.wants/{unit}.service": f"../{unit}.service" for unit in ENABLED},
}
FOLDERS = ("etc/kubernetes/manifests", "kind/images", "kind/manifests")
OF_THIS_MACHINE = ("etc/hostname", "etc/resolv.conf")
"""What debootstrap copies from the machine that it runs on."""
POD_SUBNET = "10.244.0.0/24"
"""kind's default for the pods of its first node."""
NETWORK = {
    "cniVersion": "0.4.0",
    "name": "ptp",
    "plugins": [
        {
            "type": "ptp",
            # Towards other machines pods are the node, as with kind's own network plugin.
            "ipMasq": True,
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni-ipam-state",
                "ranges": [[{"subnet": POD_SUBNET}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}
LOAD_IMAGES = """\
[Unit]
Description=Load the images of the control plane
After=containerd.service
Before=kubelet.service
ConditionPathExists=!/var/lib/images-loaded

[Service]
Type=oneshot
ExecStart=/bin/sh -euc 'for archive in /kind/images/*.tar; do ctr --namespace k8s.io images import "$archive"; done'
ExecStart=/bin/touch /var/lib/images-loaded

[Install]
WantedBy=multi-user.target
"""
# kind applies both. The network is there from the start, and no test needs storage that makes itself.
NETWORK_MANIFEST = """\
apiVersion: v1
kind: ConfigMap
metadata:
  name: node-network
  namespace: kube-system
data:
  made: /etc/cni/net.d/10-ptp.conflist, when the node image was made
"""
STORAGE_MANIFEST = """\
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata:
  name: standard
  annotations:
    storageclass.kubernetes.io/is-default-class: "true"
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
"""
PROXY_PROGRAMS = {
    **{
        f"usr/sbin/{family}{what}": "usr/sbin/xtables-nft-multi"
        for family in ("iptables", "ip6tables")
        for what in ("", "-save", "-restore")
    },
    "usr/sbin/nft": "usr/sbin/nft",
    "usr/sbin/conntrack": "usr/sbin/conntrack",
}
"""What kube-proxy calls, apart from itself, and which file of the node each is."""
PROXY_MODULES = "usr/lib/*/xtables/*.so"
PLACES = {"kube-proxy": "usr/local/bin/kube-proxy", "coredns": "coredns", "pause": "pause"}
"""Where the program is in an image, if not in `usr/local/bin`."""
ENTRYPOINT = ("/usr/local/bin/entrypoint", "/sbin/init")
ENVIRONMENT = "container=docker"


@dataclass(frozen=True)
class ProgramImage:
    """An image of the control plane, and the binary that it runs."""

    name: str
    binary: str

    @property
    def place(self) -> str:
        """The path of the program in the image. Static pods name theirs without a folder."""
        return PLACES.get(self.binary, f"usr/local/bin/{self.binary}")


def texts(version: str) -> dict[str, str]:
    """The files of the node that are neither kind's nor a package's, by their paths."""
    return {
        "kind/version": version,
        "kind/manifests/default-cni.yaml": NETWORK_MANIFEST,
        "kind/manifests/default-storage.yaml": STORAGE_MANIFEST,
        "etc/cni/net.d/10-ptp.conflist": json.dumps(NETWORK, indent=2),
        "etc/systemd/system/load-images.service": LOAD_IMAGES,
        # What the kernel says is the machine's, and confuses in the log of a node.
        "etc/systemd/journald.conf": "[Journal]\nReadKMsg=no\n",
    }


def program_images(listed: str, configuration: str) -> list[ProgramImage]:
    """The images of the control plane: those of `kubeadm config images list`, and containerd's for sandboxes.

    Args:
        listed: what kubeadm prints.
        configuration: containerd's, which names an older pause image than kubeadm does.

    Raises:
        ValueError: containerd's configuration names no image for sandboxes.

    """
    sandbox = re.search(r'^\s*sandbox_image = "([^"]+)"', configuration, re.MULTILINE)
    if sandbox is None:
        raise ValueError("containerd's configuration names no sandbox_image")
    named = [line for line in listed.split() if component(line) != "pause"]
    return [ProgramImage(name, component(name)) for name in (*named, sandbox[1])]


def component(image: str) -> str:
    """The last part of an image's name, without its tag: the binary that it runs."""
    return image.rpartition("/")[2].partition(":")[0]


def containerd_settings(text: str) -> str:
    """kind's settings of containerd, for a machine that may lack CAP_SYS_RESOURCE: without it no OOM score falls."""
    wanted = text.replace("restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    if wanted == text:
        raise ValueError("kind's settings of containerd have no restrict_oom_score_adj = false")
    return wanted


def container_defaults(specification: str) -> str:
    """The base of every container, from `ctr oci spec`: without limits, as kind has it."""
    whole = json.loads(specification)
    whole["process"].pop("rlimits", None)
    return json.dumps(whole)


def libraries(listed: Iterable[str]) -> set[str]:
    """The files in what `ldd` prints, without the first slash."""
    found = (re.match(r"\s*(?:\S+ => )?/(\S+) \(0x", line) for line in listed)
    return {match[1] for match in found if match}

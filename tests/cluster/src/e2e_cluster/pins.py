"""The binaries of a cluster and what pins each of them. Pure.

A binary is a package of a pinned Go module under ``tools/``; everything that decides its content (the
module's go.mod and go.sum or sources, and the linker's flags) makes up the key of its folder in the
cache. ``binaries`` builds what is missing there; nothing else may build or choose a version.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

STRIPPED = "-s -w"


@dataclass(frozen=True)
class Binary:
    """A program to build: its name, its module's folder under ``tools/``, the package in it."""

    name: str
    module: str
    package: str
    reports: tuple[str, str] | None = None
    """A variable of the program, and the Go module whose version the linker writes there: what `--version` prints."""
    tags: str = ""
    """Build tags that leave out what no test needs."""


BINARIES = (
    Binary("etcd", "etcd", "go.etcd.io/etcd/server/v3"),
    Binary("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Binary("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Binary("kube-scheduler", "kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    Binary("kubelet", "kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    Binary("kube-proxy", "kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    Binary("kubeadm", "kubernetes", "k8s.io/kubernetes/cmd/kubeadm"),
    Binary("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    Binary("helm", "helm", "helm.sh/helm/v3/cmd/helm"),
    Binary("coredns", "coredns", "github.com/coredns/coredns"),
    Binary("kind", "kind", "sigs.k8s.io/kind"),
    Binary("pause", "pause", "."),
    Binary("promlint", "promlint", "."),
    # Of the two dozen ways to find targets only that by the API server: the rest is most of what it compiles.
    Binary(
        "prometheus",
        "prometheus",
        "github.com/prometheus/prometheus/cmd/prometheus",
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    Binary(
        "prometheus-operator",
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator/cmd/operator",
    ),
    Binary(
        "prometheus-config-reloader",
        "prometheus-operator",
        "github.com/prometheus-operator/prometheus-operator/cmd/prometheus-config-reloader",
    ),
    Binary("keda", "keda", "github.com/kedacore/keda/v2/cmd/operator"),
    Binary("keda-adapter", "keda", "github.com/kedacore/keda/v2/cmd/adapter"),
    Binary("metrics-server", "metrics-server", "sigs.k8s.io/metrics-server/cmd/metrics-server"),
)
CLIENTS = ("kubectl", "helm")
CONTROL_PLANE = ("etcd", "kube-apiserver", "kubectl")
CHECKS = ("promlint",)
IN_PODS = (
    "prometheus",
    "prometheus-operator",
    "prometheus-config-reloader",
    "keda",
    "keda-adapter",
    "metrics-server",
)
"""Programs of other projects that run in pods beside Patio. Only tests that need one build it."""
LOCAL = tuple(binary.name for binary in BINARIES if binary.name not in ("kind", "kubeadm", *CHECKS, *IN_PODS))
KIND = ("kind", *CLIENTS)
KIND_NODE = (
    *("kubeadm", "kubelet", "kubectl", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"),
    *("kube-proxy", "coredns", "pause"),
)
"""What is in a node image of kind that is made on this machine."""


def required_version(go_mod: str, module: str) -> str:
    """The version at which a go.mod requires a module, such as ``v1.34.4``."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)}\s+(v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError(f"go.mod does not require {module}")
    return found[1]


def required_go(go_mod: str) -> tuple[int, ...]:
    """The Go version that a go.mod asks for, such as ``(1, 26, 8)``."""
    found = re.search(r"^go\s+([\d.]+)", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError("go.mod has no go directive")
    return parse_go_version(found[1])


def parse_go_version(text: str) -> tuple[int, ...]:
    """``go1.26.8`` or ``1.26`` as numbers; pre-releases count as their release."""
    found = re.match(r"(?:go)?(\d+(?:\.\d+)*)", text.strip())
    if found is None:
        raise ValueError(f"not a Go version: {text!r}")
    return tuple(int(part) for part in found[1].split("."))


def linker_flags(module: str, go_mods: Mapping[str, str]) -> str:
    """The linker's flags for a module: stripped, and told its own version where it reports one.

    Helm judges charts by a Kubernetes version, so it is told the one that runs here.
    """
    if module not in ("kubernetes", "helm"):
        return STRIPPED
    version = required_version(go_mods["kubernetes"], "k8s.io/kubernetes")
    major, minor = version.removeprefix("v").split(".")[:2]
    if module == "helm":
        helm = required_version(go_mods["helm"], "helm.sh/helm/v3")
        settings = {"helm.sh/helm/v3/internal/version.version": helm}
        for judge in ("pkg/lint/rules", "pkg/chartutil"):
            settings[f"helm.sh/helm/v3/{judge}.k8sVersionMajor"] = major
            settings[f"helm.sh/helm/v3/{judge}.k8sVersionMinor"] = minor
    else:
        package = "k8s.io/component-base/version"
        settings = {
            f"{package}.gitVersion": version,
            f"{package}.gitMajor": major,
            f"{package}.gitMinor": minor,
        }
    return " ".join([STRIPPED, *(f"-X {name}={value}" for name, value in settings.items())])


def binary_flags(binary: Binary, go_mods: Mapping[str, str]) -> str:
    """The linker's flags for a binary: those of its module, and the version that it reports."""
    flags = linker_flags(binary.module, go_mods)
    if binary.reports is None:
        return flags
    variable, module = binary.reports
    return f"{flags} -X {variable}={required_version(go_mods[binary.module], module)}"


def content_key(flags: str, files: Iterable[tuple[str, bytes]]) -> str:
    """The name of the cache folder for what these files and flags produce."""
    digest = hashlib.sha256(flags.encode())
    for name, content in sorted(files):
        digest.update(f"\0{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:20]

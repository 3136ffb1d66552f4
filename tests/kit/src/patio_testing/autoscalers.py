"""KEDA and metrics-server on the cluster: their published manifests, with images made from their pinned Go modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

import e2e_cluster
from e2e_cluster.guests import image_of, load_guests, module_folder
from patio_testing.kube import Kube, condition, until

KEDA = "github.com/kedacore/keda/v2"
METRICS_SERVER = "sigs.k8s.io/metrics-server"
KEDA_SERVICE, METRICS_SERVICE = "v1beta1.external.metrics.k8s.io", "v1beta1.metrics.k8s.io"

Objects = list[dict[str, Any]]


def install_keda(kube: Kube, report: Callable[[str], None]) -> None:
    """Install KEDA's operator and its server of external metrics, and wait until the API server has that one."""
    load_guests(e2e_cluster.connect(report=report), ("keda", "keda-adapter"), report)
    objects = _rendered(kube, module_folder("keda", KEDA) / "config" / "minimal")
    images = {"keda-operator": image_of("keda"), "keda-metrics-apiserver": image_of("keda-adapter")}
    _apply(kube, objects, images)
    _wait(kube, KEDA_SERVICE)


def remove_keda(kube: Kube) -> None:
    """Remove what `install_keda` made. No ScaledObject must be left."""
    kube.kubectl("delete", "apiservice", KEDA_SERVICE, "--ignore-not-found")
    kube.kubectl("delete", "namespace", "keda", "--ignore-not-found", "--wait=true", "--timeout=120s")


def install_metrics_server(kube: Kube, report: Callable[[str], None]) -> None:
    """Install metrics-server, and wait until the API server has it."""
    load_guests(e2e_cluster.connect(report=report), ("metrics-server",), report)
    objects = _rendered(kube, module_folder("metrics-server", METRICS_SERVER) / "manifests" / "base")
    (deployment,) = [manifest for manifest in objects if manifest["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    # The kubelet's certificate is by the cluster's own authority, of which metrics-server knows nothing.
    container["args"] += ["--kubelet-insecure-tls"]
    _apply(kube, objects, {"metrics-server": image_of("metrics-server")})
    _wait(kube, METRICS_SERVICE)


def remove_metrics_server(kube: Kube) -> None:
    """Remove what `install_metrics_server` runs."""
    kube.kubectl("delete", "apiservice", METRICS_SERVICE, "--ignore-not-found")
    kube.kubectl("-n", "kube-system", "delete", "deployment", "metrics-server", "--ignore-not-found")


def _rendered(kube: Kube, folder: Any) -> Objects:
    return [manifest for manifest in yaml.safe_load_all(kube.kubectl("kustomize", str(folder))) if manifest]


def _apply(kube: Kube, objects: Objects, images: dict[str, str]) -> None:
    """Apply published objects, with our images and with probes that do not wait first."""
    for manifest in objects:
        if manifest["kind"] != "Deployment":
            continue
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            container |= {"image": images[container["name"]], "imagePullPolicy": "IfNotPresent"}
            container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60}
    text = yaml.safe_dump_all(objects)
    # A CRD of KEDA is too large for the annotation of a client-side apply.
    kube.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)


def _wait(kube: Kube, service: str) -> None:
    path = f"/apis/apiregistration.k8s.io/v1/apiservices/{service}"
    until(
        f"{service} available",
        lambda: kube.get(path) or {},
        lambda found: condition(found, "Available").get("status") == "True",
        within=90,
    )

"""Every template with a dozen combinations of values: a real API server accepts each object, by a dry run."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster.binaries import ensure_binaries
from e2e_cluster.control_plane import ControlPlane, control_plane

from .chart_objects import CHART, NAMESPACE, Object, of_kind

pytestmark = pytest.mark.api

ROOT = CHART.parents[1]
EVERYTHING = Path(__file__).parent / "everything.yaml"
TEAMS = ("watchNamespaces={team-a,team-b}",)
ANY_USER = tuple(
    f"{component}.securityContext.{key}=null"
    for component in ("operator", "sidecar")
    for key in ("runAsUser", "runAsGroup")
)
DIGEST = "sha256:" + "0" * 64
MATRIX: dict[str, tuple[str, ...]] = {
    "as it is": (),
    "manage": ("groups.mode=manage",),
    "observe": ("groups.mode=observe",),
    "observe and hand over": ("groups.mode=observe", "groups.handOver=true"),
    "off": ("groups.mode=off", "profile.rollWorkloads=false"),
    "some namespaces, manage": (*TEAMS, "groups.mode=manage", "adapters.secrets.namespaces={team-a}"),
    "some namespaces, off": (*TEAMS, "groups.mode=off"),
    "Secrets everywhere": ("adapters.secrets.namespaces={*}",),
    "cert-manager": ("webhook.certManager.enabled=true",),
    "cert-manager on OpenShift": ("webhook.certManager.enabled=true", *ANY_USER),
    "network of the node": ("operator.hostNetwork=true", "webhook.securePort=10260", "operator.healthPort=10261"),
    "OpenShift": ANY_USER,
    "one replica to try": ("operator.replicas=1", "webhook.failurePolicy=Ignore", "access.enforced=false"),
    "pinned": (f"operator.image.digest={DIGEST}", f"sidecar.image.digest={DIGEST}", "global.imageRegistry=r.example"),
    "downloads in a claim": ("sidecar.downloadVolume.persistentVolumeClaim=adapters",),
    "downloads on the node": ("sidecar.downloadVolume.hostPath=/var/cache/patio", "sidecar.downloadLimit="),
    "only the operator": ("profile.create=false", "serviceAccount.create=false", "rbac.create=false"),
    "secured metrics": (
        "operator.metrics.secure=true",
        "operator.metrics.readers[0].namespace=monitoring",
        "operator.metrics.readers[0].name=prometheus",
    ),
    "closed network": ("networkPolicy.enabled=true", "networkPolicy.egress.enabled=true"),
}
OF_OTHERS = (
    ("cert-manager.io/v1", "certificates", "Certificate"),
    ("cert-manager.io/v1", "issuers", "Issuer"),
    ("monitoring.coreos.com/v1", "podmonitors", "PodMonitor"),
    ("monitoring.coreos.com/v1", "servicemonitors", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "prometheusrules", "PrometheusRule"),
    ("grafana.integreatly.org/v1beta1", "grafanadashboards", "GrafanaDashboard"),
)


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server with the CRDs, of which one is old, so that the Job of the upgrade is rendered too."""
    with control_plane() as running:
        for namespace in (NAMESPACE, "team-a", "team-b", "monitoring"):
            running.kubectl("create", "namespace", namespace)
        running.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/warn=restricted")
        running.kubectl("create", "-f", str(CHART / "crds"))
        running.kubectl("annotate", "--overwrite", "crd", "loraadapters.patio.dev", "patio.dev/version=0.0.1")
        for version, plural, kind in OF_OTHERS:
            running.kubectl("create", "-f", "-", stdin=json.dumps(stand_in(version, plural, kind)))
        running.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield running


def stand_in(api_version: str, plural: str, kind: str) -> Object:
    """A CRD of another project without its schema."""
    group, version = api_version.split("/")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "scope": "Namespaced",
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


def render(plane: ControlPlane, *arguments: str) -> list[Object]:
    """What Helm would install, with the hooks: it asks the API server what is there."""
    helm = [ensure_binaries(["helm"]).helm, "--kubeconfig", plane.kubeconfig, "--namespace", NAMESPACE]
    done = subprocess.run(
        [*helm, "template", "patio", CHART, "--dry-run=server", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def accepted(plane: ControlPlane, objects: list[Object]) -> str:
    """Have the API server take each object by a dry run; return its warnings."""
    done = subprocess.run(
        [
            *(plane.binaries.kubectl, f"--kubeconfig={plane.kubeconfig}", "apply", "--server-side"),
            *("--dry-run=server", "--validate=strict", "-f", "-"),
        ],
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("serverside-applied") == len(objects)
    return done.stderr


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX)
def test_api_server_accepts_every_object(plane: ControlPlane, values: tuple[str, ...]) -> None:
    objects = render(plane, *(f"--set={value}" for value in values))
    names = {(body["kind"], body["metadata"]["name"]) for body in objects}
    with_jobs = "rbac.create=false" not in values
    assert (("Job", "patio-crd-upgrade") in names) == (("Job", "patio-installation-check") in names) == with_jobs
    warnings = accepted(plane, objects)
    assert ("would violate PodSecurity" in warnings) == ("operator.hostNetwork=true" in values), warnings


def test_api_server_accepts_every_value_at_once(plane: ControlPlane) -> None:
    objects = render(plane, f"--values={EVERYTHING}")
    assert {body["kind"] for body in objects} >= {
        "NetworkPolicy",
        "Certificate",
        "PodDisruptionBudget",
        "ConfigMap",
        "Job",
        *(kind for _, _, kind in OF_OTHERS if kind != "Issuer"),
    }
    accepted(plane, objects)


def test_pods_of_hooks_go_where_the_operators_pods_go(plane: ControlPlane) -> None:
    values = yaml.safe_load(EVERYTHING.read_text())["operator"]
    objects = render(plane, f"--values={EVERYTHING}")
    jobs = of_kind(objects, "Job")
    assert len(jobs) == 2
    for job in jobs:
        template = job["spec"]["template"]
        assert template["spec"]["nodeSelector"] == values["nodeSelector"]
        assert template["spec"]["tolerations"] == values["tolerations"]
        assert template["spec"]["affinity"] == {"nodeAffinity": values["affinity"]["nodeAffinity"]}
        assert template["metadata"]["labels"].items() >= values["podLabels"].items(), "a service mesh may read them"
        assert template["metadata"]["annotations"] == values["podAnnotations"]


def test_pods_of_hooks_reach_the_api_server_and_nothing_else(plane: ControlPlane) -> None:
    objects = render(plane, f"--values={EVERYTHING}")
    policies = {policy["metadata"]["name"]: policy for policy in of_kind(objects, "NetworkPolicy")}
    for job in of_kind(objects, "Job"):
        policy = policies[job["metadata"]["name"]]
        assert policy["metadata"]["annotations"]["helm.sh/hook"] == job["metadata"]["annotations"]["helm.sh/hook"]
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert job["spec"]["template"]["metadata"]["labels"].items() >= selected.items()
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        (rule,) = policy["spec"]["egress"]
        assert rule == {
            "ports": [{"port": 6443, "protocol": "TCP"}],
            "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
        }
        assert "ingress" not in policy["spec"]
    closed = render(plane, "--set=networkPolicy.enabled=true")
    assert [policy["metadata"]["name"] for policy in of_kind(closed, "NetworkPolicy")] == ["patio-operator"]


def test_everything_has_every_value() -> None:
    def leaves(values: Any, path: str = "") -> Iterator[str]:
        if isinstance(values, dict) and values:
            for name, inner in values.items():
                yield from leaves(inner, f"{path}.{name}")
        else:
            yield path

    listed = set(leaves(yaml.safe_load(EVERYTHING.read_text())))
    wanted = set(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
    assert sorted(value for value in wanted if not any(f"{path}.".startswith(f"{value}.") for path in listed)) == []


def test_api_server_accepts_the_network_policy_of_the_docs(plane: ControlPlane) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tasks" / "harden.md").read_text(), re.S)
    policies = [policy for block in blocks if (policy := yaml.safe_load(block)).get("kind") == "NetworkPolicy"]
    assert len(policies) == 1
    accepted(plane, policies)


def test_network_policy_values_of_the_docs_are_accepted(plane: ControlPlane, tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tasks" / "harden.md").read_text(), re.S)
    (values,) = [block for block in blocks if block.startswith("networkPolicy:")]
    file = tmp_path / "values.yaml"
    file.write_text(values)
    accepted(plane, render(plane, f"--values={file}"))

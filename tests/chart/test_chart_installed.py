"""The chart on a real API server: installed, upgraded, and what the operator may do there. No kubelet: nothing runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e_cluster.binaries import ensure_binaries
from e2e_cluster.control_plane import ControlPlane, control_plane
from inference_server.ports import free_port
from patio_testing.kube import until

pytestmark = pytest.mark.api

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"
NAMESPACE = "patio-system"
OPERATOR = f"system:serviceaccount:{NAMESPACE}:patio-operator"

Helm = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane() as running:
        yield running


@pytest.fixture(scope="module")
def helm(plane: ControlPlane) -> Helm:
    """Run helm against the API server."""
    binary = ensure_binaries(["helm"]).helm

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [binary, "--kubeconfig", plane.kubeconfig, "--namespace", NAMESPACE, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def installed(plane: ControlPlane, helm: Helm) -> ControlPlane:
    """An API server on which the chart is installed."""
    done = helm("install", "patio", str(CHART), "--create-namespace")
    assert done.returncode == 0, done.stderr
    assert "patio.dev/profile: patio" in done.stdout
    return plane


def read(plane: ControlPlane, *what: str) -> Any:
    return json.loads(plane.kubectl("get", *what, "--output=json"))


def ca_bundles(plane: ControlPlane) -> list[str | None]:
    webhooks = read(plane, "mutatingwebhookconfiguration/patio")["webhooks"]
    return [webhook["clientConfig"].get("caBundle") for webhook in webhooks]


def test_api_server_keeps_the_default_profile_as_written(installed: ControlPlane) -> None:
    profile = read(installed, "clusterengineruntimeprofile/patio")
    (sidecar,) = profile["spec"]["initContainers"]
    assert sidecar["restartPolicy"] == "Always"
    assert sidecar["readinessProbe"]["httpGet"] == {"path": "/ready", "port": 9091}
    assert profile["spec"]["volumes"] == [
        {"name": "patio", "emptyDir": {"sizeLimit": "64Mi"}},
        {"name": "patio-adapters", "emptyDir": {}},
    ]


def test_upgrade_leaves_the_ca_bundle_alone(installed: ControlPlane, helm: Helm) -> None:
    bundle = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCg=="
    patch = [{"op": "add", "path": f"/webhooks/{index}/clientConfig/caBundle", "value": bundle} for index in range(4)]
    installed.kubectl("patch", "mutatingwebhookconfiguration", "patio", "--type=json", f"--patch={json.dumps(patch)}")
    done = helm("upgrade", "patio", str(CHART), "--set=webhook.timeoutSeconds=7")
    assert done.returncode == 0, done.stderr
    webhooks = read(installed, "mutatingwebhookconfiguration/patio")["webhooks"]
    assert [webhook["timeoutSeconds"] for webhook in webhooks] == [7, 7, 7, 5]
    assert ca_bundles(installed) == 4 * [bundle]


def test_upgrade_can_change_which_namespaces_are_watched(installed: ControlPlane, helm: Helm) -> None:
    installed.kubectl("create", "namespace", "watched")
    for values in (("--set=watchNamespaces={watched}", "--set=groups.mode=manage"), ("--reset-values",)):
        done = helm("upgrade", "patio", str(CHART), *values)
        assert done.returncode == 0, done.stderr
        bound = read(installed, "clusterrolebindings")["items"]
        names = [binding["metadata"]["name"] for binding in bound if binding["metadata"]["name"].startswith("patio")]
        assert names == ["patio-operator" if values == ("--reset-values",) else "patio-operator-cluster"]


def test_second_release_is_rejected(installed: ControlPlane, helm: Helm) -> None:
    done = helm("install", "another", str(CHART), "--skip-crds")
    assert done.returncode != 0
    assert "cannot be imported into the current release" in done.stderr


@pytest.mark.parametrize(
    "what",
    [
        "list secrets --all-namespaces",
        f"list secrets --namespace {NAMESPACE}",
        f"get secrets/another --namespace {NAMESPACE}",
        f"delete secrets/patio-signing-key --namespace {NAMESPACE}",
        "get secrets/patio-signing-key --namespace default",
        f"delete secrets/patio-webhook-tls --namespace {NAMESPACE}",
        "get secrets/patio-webhook-tls --namespace default",
        "create pods --subresource=exec",
        "create pods --subresource=eviction",
        "list nodes",
        "delete loraadapters.patio.dev",
        "update clusterengineruntimeprofiles.workloads.x-k8s.io",
        "patch mutatingwebhookconfigurations/another",
        "create clusterrolebindings",
        "create serviceaccounts/token",
        "patch customresourcedefinitions",
        "patch customresourcedefinitions/loraadapters.patio.dev",
        "delete customresourcedefinitions/rolebasedgroups.workloads.x-k8s.io",
        "list deployments --all-namespaces",
        "list deployments",
        "create deployments",
        "delete deployments",
        "update deployments/scale",
        "patch validatingwebhookconfigurations/another",
        "patch validatingadmissionpolicies",
        "list leases --all-namespaces",
        f"patch leases/another --namespace {NAMESPACE}",
        "patch leases/patio-operator --namespace default",
    ],
)
def test_operator_may_not(installed: ControlPlane, what: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        installed.kubectl("auth", "can-i", *what.split(), f"--as={OPERATOR}")
    assert refused.value.stdout.strip() == "no"


def test_operator_gets_by_with_what_it_may(installed: ControlPlane, tmp_path: Path) -> None:
    """As its service account, from nothing to a realised group; a call that the API server forbids is in its log."""
    installed.kubectl("create", "namespace", "team")
    for manifest in (GROUP, ADAPTER):
        installed.kubectl("apply", "--namespace=team", "--filename=-", stdin=json.dumps(manifest))
    health, log = free_port(), tmp_path / "operator.log"
    environment = {
        "PATH": os.environ["PATH"],
        "KUBECONFIG": str(installed.kubeconfig_for(OPERATOR)),
        "PATIO_NAMESPACE": NAMESPACE,
        "POD_NAME": "patio-operator-0",
        "PATIO_HEALTH_PORT": str(health),
        "PATIO_WEBHOOK_PORT": str(free_port()),
    }
    with log.open("wb") as output:
        operator = subprocess.Popen([sys.executable, "-m", "patio_operator"], env=environment, stderr=output)
    try:
        until("the operator is ready", lambda: is_ready(operator, health), within=30)
        until("the CA bundle is written", lambda: set(ca_bundles(installed)), lambda seen: len(seen - {None}) == 1)
        made = "statefulsets,services,rolebasedgroups,loraadapters,events"
        until(
            "the group realised and told of, the adapter held",
            lambda: read(installed, made, "--namespace=team")["items"],
            lambda seen: (
                {"StatefulSet", "Service", "Event"} <= {body["kind"] for body in seen}
                and all(
                    body.get("status", {}).get("conditions")
                    for body in seen
                    if body["kind"] in ("RoleBasedGroup", "LoraAdapter")
                )
            ),
            within=30,
        )
        installed.kubectl("delete", "--namespace=team", "loraadapter/sql", "--timeout=60s")
    finally:
        operator.terminate()
        operator.wait(20)
        print(log.read_text())  # pytest shows it with a failure
    assert "forbidden" not in log.read_text().lower()


def test_uninstalled_chart_blocks_no_pods_and_installs_again(installed: ControlPlane, helm: Helm) -> None:
    installed.kubectl("create", "namespace", "after")
    pod = {"metadata": {"name": "engine", "labels": {"patio.dev/profile": "patio"}}} | ENGINE
    with pytest.raises(subprocess.CalledProcessError) as held_up:  # nobody answers: no operator runs
        installed.kubectl("create", "--namespace=after", "--filename=-", stdin=json.dumps(pod))
    assert "failed calling webhook" in held_up.value.stderr
    done = helm("uninstall", "patio", "--debug")
    assert done.returncode == 0, done.stderr
    output = done.stdout + done.stderr
    deletions = [line for line in output.splitlines() if "tarting delete" in line]
    assert "MutatingWebhookConfiguration" in deletions[0], output
    installed.kubectl("create", "--namespace=after", "--filename=-", stdin=json.dumps(pod))
    left = installed.kubectl("get", "mutatingwebhookconfigurations,validatingwebhookconfigurations", "--output=name")
    assert left == ""
    done = helm("install", "patio", str(CHART), "--create-namespace")
    assert done.returncode == 0, done.stderr
    assert read(installed, "pod/engine", "--namespace=after")["metadata"]["labels"] == pod["metadata"]["labels"]


def is_ready(operator: subprocess.Popen[bytes], port: int) -> bool:
    assert operator.poll() is None, "the operator ended"
    return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200


GROUP = {
    "apiVersion": "workloads.x-k8s.io/v1alpha2",
    "kind": "RoleBasedGroup",
    "metadata": {"name": "demo"},
    "spec": {
        "roles": [
            {
                "name": "worker",
                "replicas": 1,
                "engineRuntimes": [{"profileName": "patio"}],
                "standalonePattern": {"template": {"spec": {"containers": [{"name": "engine", "image": "engine"}]}}},
            }
        ]
    },
}
ENGINE = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "engine", "image": "engine"}]}}
ADAPTER = {
    "apiVersion": "patio.dev/v1alpha1",
    "kind": "LoraAdapter",
    "metadata": {"name": "sql"},
    "spec": {"source": {"uri": "file:///models/sql"}, "selector": {"matchLabels": {"app": "engine"}}},
}

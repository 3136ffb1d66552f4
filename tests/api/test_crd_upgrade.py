"""The Job that upgrades CRDs, with the rights that its hook gives it, against a real API server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster import ensure_binaries
from e2e_cluster.control_plane import ControlPlane, control_plane
from patio_api.crd import VERSION
from patio_operator import __version__
from patio_operator.crd_upgrade.upgrade import FIELD_MANAGER
from patio_testing.kube import until

pytestmark = pytest.mark.api

CHART = Path(__file__).resolve().parents[2] / "charts" / "patio"
NAMESPACE = "llm"
NAME = "patio-crd-upgrade"
USER = f"system:serviceaccount:{NAMESPACE}:{NAME}"
ADAPTERS = "loraadapters.patio.dev"
PROFILES = "clusterengineruntimeprofiles.workloads.x-k8s.io"
GROUPS = "rolebasedgroups.workloads.x-k8s.io"

Object = dict[str, Any]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """An API server of this module's own, since its CRDs change."""
    with control_plane() as running:
        running.kubectl("create", "namespace", NAMESPACE)
        yield running


def read(plane: ControlPlane, name: str) -> Object:
    found: Object = json.loads(plane.kubectl("get", "crd", name, "--output=json", "--show-managed-fields"))
    return found


def put_older(plane: ControlPlane) -> None:
    """Put the CRDs there as an older version had them: without a field, and with what the operator writes."""
    for path in (CHART / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        crd["metadata"]["annotations"] = {VERSION: "0.0.1"}
        if crd["metadata"]["name"] == ADAPTERS:
            spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
            del spec["properties"]["pinned"]
        if crd["metadata"]["name"] == GROUPS:
            client = crd["spec"]["conversion"]["webhook"]["clientConfig"]
            client["service"]["namespace"] = "elsewhere"
            client["caBundle"] = base64.b64encode(plane.ca.read_bytes()).decode()
        plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(crd))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", ADAPTERS, PROFILES, GROUPS)


def hooks(plane: ControlPlane, *values: str) -> dict[str, Object]:
    """What Helm would run before an installation, by kind."""

    def rendered() -> str:
        arguments = ("--namespace", NAMESPACE, "--dry-run=server", *(f"--set={value}" for value in values))
        completed = subprocess.run(
            [ensure_binaries(["helm"]).helm, "--kubeconfig", plane.kubeconfig, "template", "patio", CHART, *arguments],
            check=False,
            capture_output=True,
            text=True,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    objects = [document for document in yaml.safe_load_all(rendered()) if document]
    return {body["kind"]: body for body in objects if body["metadata"]["name"] == NAME}


def run(plane: ControlPlane, job: Object) -> subprocess.CompletedProcess[str]:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return subprocess.run(
        [sys.executable, "-m", *container["args"]],
        env={"PATH": os.environ["PATH"], "KUBECONFIG": str(plane.kubeconfig_for(USER))},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def job(plane: ControlPlane) -> Iterator[Object]:
    """Older CRDs, and the Job of the hook with its rights, which are taken away again."""
    put_older(plane)
    objects = hooks(plane)
    assert objects.keys() == {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"}
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(objects[kind]))
    plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(objects["Job"]))
    yield objects["Job"]
    for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
        plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=json.dumps(objects[kind]))


def adapter() -> str:
    body = {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": "sql", "namespace": "default"},
        "spec": {"source": {"uri": "file:///models/sql"}, "selector": {"matchLabels": {"a": "b"}}, "pinned": True},
    }
    return json.dumps(body)


def is_accepted(plane: ControlPlane) -> bool:
    completed = subprocess.run(
        [
            *(plane.binaries.kubectl, f"--kubeconfig={plane.kubeconfig}"),
            *("create", "--validate=strict", "--dry-run=server", "-f", "-"),
        ],
        input=adapter(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0 or "pinned" in completed.stderr, completed.stderr
    return completed.returncode == 0


def test_upgrade_brings_new_fields_and_keeps_the_conversion(plane: ControlPlane, job: Object) -> None:
    conversion = read(plane, GROUPS)["spec"]["conversion"]
    assert conversion["webhook"]["clientConfig"]["service"]["namespace"] == "elsewhere"
    until("the API server knows the older schema", lambda: not is_accepted(plane))
    plane.kubectl("delete", "crd", PROFILES)
    completed = run(plane, job)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert [line.split(":")[0] for line in completed.stdout.splitlines()] == [
        f"applied {ADAPTERS}",
        f"applied {PROFILES}",
        f"applied {GROUPS}",
    ]
    until("the API server knows the new schema", lambda: is_accepted(plane))
    for name in (ADAPTERS, PROFILES, GROUPS):
        crd = read(plane, name)
        assert crd["metadata"]["annotations"][VERSION] == __version__
        assert FIELD_MANAGER in {managed_field["manager"] for managed_field in crd["metadata"]["managedFields"]}
    assert read(plane, GROUPS)["spec"]["conversion"] == conversion
    before = [read(plane, name)["metadata"]["resourceVersion"] for name in (ADAPTERS, PROFILES, GROUPS)]
    assert run(plane, job).returncode == 0
    assert [read(plane, name)["metadata"]["resourceVersion"] for name in (ADAPTERS, PROFILES, GROUPS)] == before
    assert "ClusterRole" in hooks(plane), "the next upgrade deletes the rights that a killed Helm leaves"
    plane.kubectl("delete", "clusterrole", NAME)
    assert hooks(plane) == {}, "there is nothing left to upgrade"


def test_newer_crd_is_never_replaced(plane: ControlPlane, job: Object) -> None:
    plane.kubectl("annotate", "--overwrite", "crd", GROUPS, f"{VERSION}=99.0.0")
    completed = run(plane, job)
    assert completed.returncode == 2, completed.stdout + completed.stderr
    assert f"rejected: {GROUPS}: it has version 99.0.0, which is newer than {__version__}" in completed.stdout
    assert read(plane, ADAPTERS)["metadata"]["annotations"][VERSION] == "0.0.1", "nothing was changed"


def test_upstreams_crd_is_left_as_it_is(plane: ControlPlane, job: Object) -> None:
    upstream = {"service": {"name": "rbgs-webhook-service", "namespace": "rbgs-system"}}
    patch = {"spec": {"conversion": {"webhook": {"clientConfig": upstream}}}}
    plane.kubectl("patch", "crd", GROUPS, "--type=merge", f"--patch={json.dumps(patch)}")
    before = read(plane, GROUPS)["metadata"]["resourceVersion"]
    completed = run(plane, job)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert f"left {GROUPS}: it is not Patio's" in completed.stdout
    assert read(plane, GROUPS)["metadata"]["resourceVersion"] == before
    assert read(plane, ADAPTERS)["metadata"]["annotations"][VERSION] == __version__


@pytest.mark.parametrize("value", ["crds.upgrade=false", "rbac.create=false"])
def test_job_can_be_switched_off(plane: ControlPlane, job: Object, value: str) -> None:
    assert hooks(plane, value) == {}


def test_job_has_rights_on_its_crds_only(plane: ControlPlane, job: Object) -> None:
    for request in ("patch crd/other.example.com", "create crd", "delete crd/loraadapters.patio.dev", "get secrets"):
        with pytest.raises(subprocess.CalledProcessError) as rejected:
            plane.kubectl("auth", "can-i", *request.split(), f"--as={USER}")
        assert rejected.value.stdout.strip() == "no"


def test_helm_runs_the_job_first_and_deletes_its_rights(plane: ControlPlane, tmp_path: Path) -> None:
    """No kubelet runs here, so the test does what the Job's pod would do, and says that it has."""
    put_older(plane)
    log = tmp_path / "helm.log"
    with log.open("wb") as output:
        helm = subprocess.Popen(
            [
                *(ensure_binaries(["helm"]).helm, "--kubeconfig", plane.kubeconfig),
                *("install", "patio", CHART, "--namespace", NAMESPACE, "--timeout", "2m"),
            ],
            stdout=output,
            stderr=output,
        )
    try:
        jobs = until("the Job is there", lambda: items(plane, "jobs"), within=60)
        assert items(plane, "deployments") == [], "the CRDs come first"
        completed = run(plane, jobs[0])
        assert completed.returncode == 0, completed.stdout + completed.stderr
        now = "2026-01-01T00:00:00Z"
        status = {"startTime": now, "completionTime": now, "succeeded": 1, "conditions": []}
        for condition in ("SuccessCriteriaMet", "Complete"):
            status["conditions"] = [
                *status["conditions"],
                {"type": condition, "status": "True", "lastTransitionTime": now},
            ]
        patch = json.dumps({"status": status})
        plane.kubectl("patch", "job", NAME, f"-n={NAMESPACE}", "--subresource=status", "--type=merge", f"-p={patch}")
        assert helm.wait(60) == 0, log.read_text()
    finally:
        helm.kill()
    assert items(plane, "deployments")
    for kind in ("jobs", "serviceaccounts", "clusterroles", "clusterrolebindings"):
        assert NAME not in [item["metadata"]["name"] for item in items(plane, kind)], kind


def items(plane: ControlPlane, kind: str) -> list[Object]:
    found: list[Object] = json.loads(plane.kubectl("get", kind, f"--namespace={NAMESPACE}", "--output=json"))["items"]
    return found

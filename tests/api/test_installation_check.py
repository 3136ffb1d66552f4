"""What `helm test` runs, with the rights that its hooks give it, against a real API server and a running operator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import yaml

from e2e_cluster import ensure_binaries
from e2e_cluster.control_plane import ControlPlane
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

NAME = "patio-installation-check"
USER = f"system:serviceaccount:patio-system:{NAME}"

Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def check(plane: ControlPlane) -> Check:
    """Run the check as the service account of the hooks, with the roles of the hooks."""
    hooks = subprocess.run(
        [
            ensure_binaries(["helm"]).helm,
            "--kubeconfig",
            plane.kubeconfig,
            "--namespace=patio-system",
            "get",
            "hooks",
            "patio",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    kinds = {
        document["kind"]: document
        for document in yaml.safe_load_all(hooks)
        if document and document["metadata"]["name"] == NAME
    }
    assert kinds.keys() == {"ServiceAccount", "Role", "RoleBinding", "Job"}
    for kind in ("ServiceAccount", "Role", "RoleBinding"):
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(kinds[kind]))
    (container,) = kinds["Job"]["spec"]["template"]["spec"]["containers"]
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(plane.kubeconfig_for(USER))}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *container["args"], *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


def test_running_installation_passes_and_nothing_is_stored(
    webhooks: OperatorProcess, check: Check, plane: ControlPlane
) -> None:
    completed = check()
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.splitlines() == [
        "ok: in the namespace default, a pod with the label patio.dev/profile=patio gets: patio",
        "ok: in the namespace default, a LoraAdapter is accepted",
    ]
    assert plane.kubectl("get", "pods,loraadapters", "--namespace=default", "--output=name") == ""


def test_missing_profile_fails_the_check(webhooks: OperatorProcess, check: Check) -> None:
    completed = check("--profile=unheard-of", "--seconds=1")
    assert completed.returncode == 1
    assert "FAILED" in completed.stdout
    assert "unheard-of" in completed.stdout


@pytest.mark.parametrize(
    "right",
    [
        {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "x", "image": "x"}]}},
        {
            "apiVersion": "patio.dev/v1alpha1",
            "kind": "LoraAdapter",
            "spec": {"source": {"uri": "file:///models/a"}, "selector": {"matchLabels": {"a": "b"}}},
        },
    ],
    ids=lambda right: str(right["kind"]),
)
def test_rights_of_the_hook_are_for_dry_runs_only(plane: ControlPlane, check: Check, right: dict[str, object]) -> None:
    document = json.dumps(right | {"metadata": {"name": "kept"}})
    with pytest.raises(subprocess.CalledProcessError) as refused:
        plane.kubectl("create", "--namespace=default", f"--as={USER}", "-f", "-", stdin=document)
    assert "by dry run only" in refused.value.stderr

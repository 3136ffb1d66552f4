"""Everything that a reader is told to apply: accepted by the API server, and injected as it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from patio.settings import read_settings
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator import injection
from patio_operator.profiles import validation
from patio_protocol.adapters import LoadRequest
from patio_protocol.sources import read_config
from patio_testing.kube import Kube, until
from patio_testing.manifests import manifests
from patio_testing.operator_process import OperatorProcess

pytestmark = pytest.mark.api

ROOT = Path(__file__).resolve().parents[2]
DOWNLOADED = LoadRequest(lora_name="any", source="hf://org/any", wait=0)
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_is_accepted(kube: Kube, namespace: str, example: Path) -> None:
    kube.kubectl("-n", namespace, "apply", "--dry-run=server", "-f", str(example))


@pytest.mark.parametrize("document", ["docs/index.md", "docs/concepts/loraadapter.md"])
def test_adapters_that_the_documents_show_are_accepted(kube: Kube, namespace: str, document: str) -> None:
    shown = manifests(ROOT / document, "LoraAdapter")
    assert shown
    for adapter in shown:
        adapter["metadata"]["namespace"] = namespace
        kube.kubectl("apply", "--dry-run=server", "-f", "-", stdin=yaml.safe_dump(adapter))


def test_example_adapters_get_along_with_each_other(kube: Kube, namespace: str, webhooks: OperatorProcess) -> None:
    for adapter in adapters_shown():
        adapter["metadata"]["namespace"] = namespace
        kube.apply(adapter)


def test_pod_of_the_example_deployment_gets_the_example_adapters(
    kube: Kube, namespace: str, webhooks: OperatorProcess
) -> None:
    shown = {adapter["metadata"]["name"]: adapter for adapter in adapters_shown()}
    for adapter in shown.values():
        adapter["metadata"]["namespace"] = namespace
        kube.apply(adapter)

    def required() -> dict[str, LoadRequest]:
        env = {
            variable["name"]: variable.get("value", "")
            for variable in sidecar_of(kube, namespace, "deployment.yaml")["env"]
        }
        assert env["PATIO_DOWNLOAD_ROOTS"] == "/models"
        return {request.lora_name: request for request in read_settings([], env | {"POD_UID": "u"}).required_adapters}

    everywhere = {"legal-summaries", "support-tone", "chemistry"}
    until("admissions know the adapters", lambda: required().keys() == everywhere, within=5)
    found = required()
    assert found["chemistry"].source == "pvc://adapters/chemistry"
    for name in ("legal-summaries", "support-tone"):
        assert found[name].expects_credentials, f"{name} has a Secret"
    assert read_config(found["support-tone"].config) == {"endpoint": "https://minio.example.com:9000"}
    assert read_config(found["legal-summaries"].config) == {"hf_revision": "v1.2"}


def test_example_deployments_pods_get_the_sidecar(kube: Kube) -> None:
    (deployment,) = [
        document
        for document in yaml.safe_load_all((ROOT / "examples/deployment.yaml").read_text())
        if document["kind"] == "Deployment"
    ]
    profile = ClusterEngineRuntimeProfile.model_validate(
        kube.get("/apis/workloads.x-k8s.io/v1alpha2/clusterengineruntimeprofiles/patio")
    )
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **deployment["spec"]["template"]}
    assert injection.runtimes_of(pod) == (injection.RuntimeRef("patio"),)
    injected = injection.inject(pod, [injection.Runtime(profile)], [DOWNLOADED])
    assert isinstance(injected, injection.Injection)
    assert injected.warnings == ()
    engine = yaml.safe_load(injected.pod["metadata"]["annotations"]["patio.dev/engine"])
    assert (engine["kind"], engine["port"], engine["model"]) == ("vllm", 8000, "qwen3-8b")
    (sidecar,) = injected.pod["spec"]["initContainers"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in sidecar["volumeMounts"]


def test_example_stateful_sets_pods_get_its_own_profile(kube: Kube) -> None:
    found = {
        document["kind"]: document for document in yaml.safe_load_all((ROOT / "examples/statefulset.yaml").read_text())
    }
    profile = ClusterEngineRuntimeProfile.model_validate(found["ClusterEngineRuntimeProfile"])
    tried = kube.http.post(
        "/api/v1/namespaces/default/pods?dryRun=All&fieldValidation=Strict", json=validation.trial_pod(profile)
    )
    assert tried.status_code == 201, tried.text
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", **found["StatefulSet"]["spec"]["template"]}
    assert injection.runtimes_of(pod) == (injection.RuntimeRef("patio-with-cache"),)
    injected = injection.inject(pod, [injection.Runtime(profile)], [DOWNLOADED])
    assert isinstance(injected, injection.Injection)
    assert injected.warnings == ()
    annotation = yaml.safe_load(injected.pod["metadata"]["annotations"]["patio.dev/engine"])
    assert (annotation["kind"], annotation["port"], annotation["model"]) == ("sglang", 30000, "qwen3-8b")
    (engine,) = injected.pod["spec"]["containers"]
    assert {"name": "adapters", "mountPath": "/adapters", "readOnly": True} in engine["volumeMounts"]
    (sidecar,) = injected.pod["spec"]["initContainers"]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in sidecar["volumeMounts"]


def adapters_shown() -> list[dict[str, Any]]:
    """Return the LoraAdapters of the examples that are about LoraAdapters."""
    files = [example for example in EXAMPLES if example.name.startswith("loraadapter-")]
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return [document for document in documents if document["kind"] == "LoraAdapter"]


def sidecar_of(kube: Kube, namespace: str, example: str) -> dict[str, Any]:
    """Return the sidecar that a pod of an example's workload gets, as the API server admits it."""
    (workload,) = [
        document
        for document in yaml.safe_load_all((ROOT / "examples" / example).read_text())
        if "template" in document.get("spec", {})
    ]
    pod = {"apiVersion": "v1", "kind": "Pod", **workload["spec"]["template"]}
    pod["metadata"] = {"name": "tried", **pod["metadata"]}
    answer = kube.http.post(f"/api/v1/namespaces/{namespace}/pods?dryRun=All", json=pod)
    assert answer.status_code == 201, answer.text
    (sidecar,) = answer.json()["spec"]["initContainers"]
    found: dict[str, Any] = sidecar
    return found

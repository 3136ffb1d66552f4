"""The CRDs on a real API server: what it accepts, what it refuses, in which words, and what it makes of our objects."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e_cluster.control_plane import ControlPlane
from patio_api.loraadapter import LoraAdapter
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_api.schema import structural
from patio_api.source_rules import FORMATS
from patio_operator.groups import conversion, pruning
from patio_operator.groups.planner import planner
from patio_operator.groups.planner.snapshot import Snapshot
from patio_operator.injection import CallerKeys, Injection, Runtime, inject, json_patch
from patio_operator.loraadapters.planner.plan import Instance, InstanceState, Placement
from patio_operator.loraadapters.planner.status import recorded, status
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.sources import parse_source
from patio_testing.upstream_samples import SAMPLES

pytestmark = pytest.mark.api

MANIFESTS = sorted(SAMPLES.rglob("*.yaml"))
UNKNOWN_FIELDS = "sglang-agg-inference"
"""Its probes are indented into a volume: it applies, as pod templates are kept as they are; a StatefulSet does not
before they are taken out."""


def refused(plane: ControlPlane, *arguments: str, document: Any) -> str:
    """Run kubectl, which must fail, and return what it said."""
    with pytest.raises(subprocess.CalledProcessError) as failure:
        plane.kubectl(*arguments, "-f", "-", stdin=json.dumps(document))
    return str(failure.value.stderr)


def realised_samples() -> list[Any]:
    """The groups of the samples that are realised, and what they become once no role waits for another."""
    found = []
    for path in MANIFESTS:
        for document in yaml.safe_load_all(path.read_text()):
            if document and document["kind"] == "RoleBasedGroup":
                document = conversion.convert(document, conversion.V1ALPHA2)
                document["metadata"] |= {"namespace": "default", "uid": "9c1f3ad3-6d0b-4e4c-a8c4-5d2f10d2fd6c"}
                for role in document["spec"]["roles"]:
                    role["dependencies"] = []
                group = RoleBasedGroup.model_validate(document)
                plan = planner.plan(
                    Snapshot(group, [], {"nvidia-runtime-profile", "sglang-pd-runtime"}, datetime.now(UTC))
                )
                objects = [*plan.applies, *plan.creates]
                if objects:
                    id_ = f"{path.parent.name}/{path.stem}:{group.metadata.name}"
                    found.append(pytest.param(group.metadata.name, objects, id=id_))
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(SAMPLES)))
def test_upstreams_manifests_apply_unchanged(plane: ControlPlane, path: Path) -> None:
    output = plane.kubectl("apply", "--dry-run=server", "-n", "default", "-f", str(path))
    assert "created (server dry run)" in output


@pytest.mark.parametrize(("name", "objects"), realised_samples())
def test_what_a_group_becomes_is_taken_by_the_api_server(
    plane: ControlPlane, name: str, objects: list[dict[str, Any]]
) -> None:
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=false", "--field-manager=patio-operator")
    document = {"apiVersion": "v1", "kind": "List", "items": objects}
    if name == UNKNOWN_FIELDS:
        assert "Probe: field not declared in schema" in refused(plane, *apply, document=document)
        schemas = json.loads(plane.kubectl("get", "--raw", "/openapi/v3/apis/apps/v1"))["components"]["schemas"]
        pruned = [pruning.prune(body, schemas) if body["kind"] == "StatefulSet" else (body, []) for body in objects]
        document["items"] = [body for body, _ in pruned]
        assert sorted(path for _, paths in pruned for path in paths) == [
            "spec.template.spec.volumes[0].livenessProbe",
            "spec.template.spec.volumes[0].readinessProbe",
        ]
    output = plane.kubectl(*apply, "-f", "-", stdin=json.dumps(document))
    assert output.count("serverside-applied") == len(objects)


def lora_adapter(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "LoraAdapter",
        "metadata": {"name": spec.pop("name", "sql"), "namespace": spec.pop("namespace", "default")},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


FILE = {"uri": "file:///adapters/sql"}
PODS = {"matchLabels": {"app": "vllm"}}
ROLE = {"group": "g", "role": "r"}


def uri(text: str, **source: Any) -> dict[str, Any]:
    return {"source": {"uri": text, **source}, "selector": PODS}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"source": FILE}, "exactly one of selector and roleRef must be given"),
        ({"source": FILE, "selector": PODS, "roleRef": ROLE}, "exactly one of selector and roleRef must be given"),
        ({"selector": PODS}, "spec.source: Required value"),
        (uri("gs://bucket/x"), "uri must be one of hf://org/repo[@revision][/folder], org/repo, s3://bucket[/folder]"),
        (uri("file://relative"), "uri must be one of"),
        (uri("file:///"), "uri must be one of"),
        (uri("file:///a/../b"), "uri must not have . or .. as a part of its path"),
        (uri("file:///a/.."), "uri must not have . or .. as a part of its path"),
        (uri("org/a--b"), "such a name has no -- and no .."),
        (uri("s3://a..b/c"), "uri does not begin with the name of a bucket"),
        (uri("org/repo@a..b"), "the part after the @ in uri is not the name of a branch, tag or commit"),
        (uri("pvc://" + "é" * 600), "uri must not be longer than 1024 bytes"),
        (uri("s3://bucket/x", revision="main"), "revision is for Hugging Face sources only"),
        (uri("org/repo@main", revision="main"), "the revision is given twice"),
        (uri("org/repo", revision="a..b"), "revision must be the name of a branch, tag or commit"),
        (uri("org/repo", endpoint="ftp://x"), "endpoint must be a URL like https://s3.example.com"),
        (uri("file:///a", endpoint="https://x"), "endpoint is for hf://, s3:// and obs:// sources"),
        (uri("pvc://a", secretRef={"name": "x"}), "secretRef is for hf://, s3:// and obs:// sources"),
        (uri("hf://a/b/tree/main/c"), "uri is the address of a page of the Hub"),
        (uri("s3://buck/x", endpoint="http://169.254.169.254"), "sends no requests there"),
        (uri("s3://buck/x", region="eu west"), "region must be the name of a region"),
        (uri("s3://buck/x", addressingStyle="dns"), "Unsupported value"),
        (uri("org/repo", region="eu-west-1"), "region is for s3:// and obs:// sources"),
        ({"source": FILE, "selector": PODS, "adapterName": "../x"}, "spec.adapterName"),
        ({"source": FILE, "selector": PODS, "adapterName": "patio-trial-1"}, "are reserved for sidecars"),
        ({"source": FILE, "selector": {"matchLabels": {}}}, "at least 1 properties"),
        ({"source": FILE, "selector": PODS, "replicas": -1}, "greater than or equal to 0"),
        ({"source": FILE, "selector": PODS, "maxUnavailable": 0}, "greater than or equal to 1"),
        ({"source": FILE, "selector": PODS, "service": True, "name": "1.sql"}, "choose another metadata.name"),
    ],
)
def test_fault_of_an_adapter_is_reported_at_apply(plane: ControlPlane, spec: dict[str, Any], message: str) -> None:
    assert message in refused(plane, "apply", "--dry-run=server", document=lora_adapter(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        uri("file:///with space/%20"),
        uri("file:///a..b/c"),
        uri("pvc://adapters/sql"),
        uri("org/repo", revision="refs/pr/1", endpoint="hub.example.com:8443/x", secretRef={"name": "hf"}),
        uri("hf://org/repo@refs%2Fpr%2F1/folder"),
        uri("obs://bucket", endpoint="https://obs.example.com", secretRef={"name": "keys"}),
        uri("s3://bucket/http", endpoint="http://minio:9000", secretRef={"name": "keys"}, allowPlainHTTP=True),
        uri("s3://bucket/open", endpoint="http://minio:9000", region="eu-west-1", addressingStyle="path"),
        uri("s3://bucket/here", endpoint="http://127.0.0.1:9000", secretRef={"name": "keys"}),
        uri("s3://bucket/a/b/") | {"replicas": 0, "pinned": True, "maxUnavailable": 5, "service": True},
    ],
    ids=lambda spec: str(spec["source"]["uri"]),
)
def test_right_adapter_is_accepted(plane: ControlPlane, spec: dict[str, Any]) -> None:
    plane.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(lora_adapter(**spec)))


def test_api_server_and_sidecar_agree_on_what_a_source_is(plane: ControlPlane) -> None:
    parts = ("", ".", "..", "a", "a..b", "a--b", "x y", "ü", "a:b", "@", "a@b", "a@%2F", "a@b%2Fc", "lora.lock")
    uris = [
        f"{scheme}{part}{joint}{two}"
        for scheme in ("", "hf://", "s3://", "obs://", "pvc://", "file://", "file:///", "gs://")
        for joint in ("/", "//", "@")
        for part in parts
        for two in (*parts, "a/b/", "b@c.lock", "b@main")
    ]
    named = {f"sql-{index}": uri_text for index, uri_text in enumerate(random.Random(0).sample(uris, 300)) if uri_text}
    taken = {named[name] for name in created(plane, [lora_adapter(name=name, **uri(named[name])) for name in named])}
    assert taken == {
        text for text in named.values() if all(rule.keeps(text) for rule in FORMATS if rule.field == "uri")
    }
    assert len(taken) > 30
    assert all(parse_source(text) for text in taken)


def created(plane: ControlPlane, items: list[dict[str, Any]]) -> list[str]:
    """Return the names of those objects that the API server would create."""
    document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    try:
        output = plane.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=document)
    except subprocess.CalledProcessError as error:
        output = str(error.stdout)
    return [line.rpartition("/")[2] for line in output.splitlines()]


def test_name_in_requests_cannot_be_changed_but_the_rest_can(plane: ControlPlane, namespace: str) -> None:
    def applied(**spec: Any) -> dict[str, Any]:
        return lora_adapter(namespace=namespace, **spec)

    plane.kubectl("apply", "-f", "-", stdin=json.dumps(applied(source=FILE, selector=PODS)))
    renamed = applied(source=FILE, selector=PODS, adapterName="other")
    assert "adapterName is immutable" in refused(plane, "apply", document=renamed)
    same = applied(source={"uri": "file:///adapters/v2"}, roleRef=ROLE, adapterName="sql")
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(same))


@pytest.mark.parametrize("endpoint", ["http://minio:9000", "http://127.0.0.1.example.com"])
def test_clear_credentials_are_rejected_only_when_source_changes(
    plane: ControlPlane, namespace: str, endpoint: str
) -> None:
    def applied(region: str, **labels: str) -> dict[str, Any]:
        document = lora_adapter(
            namespace=namespace, **uri("s3://buck/x", endpoint=endpoint, region=region, secretRef={"name": "x"})
        )
        document["metadata"]["labels"] = labels
        return document

    plane.kubectl("apply", "-f", "-", stdin=json.dumps(applied("eu")))  # as if it were older than the rule
    patch = json.dumps({"status": {"readyReplicas": 1}})
    plane.kubectl("-n", namespace, "patch", "lora", "sql", "--subresource=status", "--type=merge", "-p", patch)
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(applied("eu", team="a")))
    assert "set allowPlainHTTP: true" in refused(plane, "apply", document=applied("us"))


def test_status_is_shown_by_kubectl_get(plane: ControlPlane, namespace: str) -> None:
    document = lora_adapter(namespace=namespace, source=FILE, selector=PODS, baseModel="qwen", adapterName="SQL")
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    ready = {
        "type": "Ready",
        "status": "False",
        "reason": "Loading",
        "message": "1 of 2 pods have it",
        "lastTransitionTime": "2026-11-21T12:00:00Z",
    }
    instance = {"pod": "p", "state": "Loading", "since": "2026-11-21T12:00:00Z"}
    status = {
        "adapterName": "SQL",
        "desiredReplicas": 2,
        "readyReplicas": 1,
        "conditions": [ready],
        "instances": [instance],
    }
    patch = json.dumps({"status": status})
    plane.kubectl("-n", namespace, "patch", "lora", "sql", "--subresource=status", "--type=merge", "-p", patch)
    header, row = plane.kubectl("-n", namespace, "get", "lora").splitlines()
    assert header.split() == ["NAME", "ADAPTER", "BASE", "DESIRED", "READY", "FAILED", "STATUS", "AGE"]
    assert row.split()[:-1] == ["sql", "SQL", "qwen", "2", "1", "0", "Loading"]
    assert "sql" in plane.kubectl("-n", namespace, "get", "patio")


def test_kubectl_scale_and_wait_and_autoscaler_find_their_fields(plane: ControlPlane, namespace: str) -> None:
    document = lora_adapter(namespace=namespace, source=FILE, selector=PODS, replicas=3)
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    adapter = LoraAdapter.model_validate(json.loads(plane.kubectl("-n", namespace, "get", "lora", "sql", "-o", "json")))
    on = EnginePod(namespace, "p", "u", "n", {}, "10.0.0.1")
    placement = Placement((Instance(on, InstanceState.LOADED, "Loaded"),), desired_replicas=1)
    patch = json.dumps({"status": status(adapter, placement, recorded({}), datetime.now(UTC))})
    plane.kubectl("-n", namespace, "patch", "lora", "sql", "--subresource=status", "--type=merge", "-p", patch)
    plane.kubectl("-n", namespace, "wait", "--for=condition=Ready", "--timeout=5s", "lora/sql")
    plane.kubectl("-n", namespace, "scale", "lora", "sql", "--replicas=5")
    path = f"/apis/patio.dev/v1alpha1/namespaces/{namespace}/loraadapters/sql/scale"
    scale = json.loads(plane.kubectl("get", "--raw", path))
    assert scale["spec"] == {"replicas": 5}
    selector = f"lora.patio.dev/sql=loaded,owner.lora.patio.dev/{adapter.metadata.uid}=sql"
    assert scale["status"] == {"replicas": 1, "selector": selector}


def test_old_version_of_a_profile_is_served_with_a_warning(plane: ControlPlane) -> None:
    document = {
        "apiVersion": "workloads.x-k8s.io/v1alpha1",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": "old"},
        "spec": {"containers": [{"name": "c", "image": "i", "anything": {"is": "kept"}}]},
    }
    plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    stored = json.loads(
        plane.kubectl("get", "clusterengineruntimeprofiles.v1alpha2.workloads.x-k8s.io", "old", "-o", "json")
    )
    assert stored["spec"] == document["spec"] | {"updateStrategy": "NoUpdate"}


def test_container_without_a_name_is_rejected_with_its_path(plane: ControlPlane) -> None:
    document = {
        "apiVersion": "workloads.x-k8s.io/v1alpha2",
        "kind": "ClusterEngineRuntimeProfile",
        "metadata": {"name": "nameless"},
        "spec": {"containers": [{"image": "i"}]},
    }
    assert "spec.containers[0].name: Required value" in refused(plane, "apply", document=document)


def test_every_field_can_be_explained(plane: ControlPlane) -> None:
    for field in (*fields_of_lora_adapters(), "rbg.spec.roles.engineRuntimes.containers"):
        assert "<empty>" not in plane.kubectl("explain", field), field


def fields_of_lora_adapters() -> list[str]:
    schema = structural(LoraAdapter)["properties"]

    def below(path: str, node: dict[str, Any]) -> Iterator[str]:
        for name, field in node.get("properties", {}).items():
            yield f"{path}.{name}"
            yield from below(f"{path}.{name}", field.get("items", field))

    return [field for part in ("spec", "status") for field in below(f"lora.{part}", schema[part])]


PROFILE = ClusterEngineRuntimeProfile.model_validate(
    {
        "metadata": {"name": "patio"},
        "spec": {
            "initContainers": [
                {
                    "name": "patio",
                    "image": "patio/sidecar:1",
                    "restartPolicy": "Always",
                    "ports": [{"name": "patio", "containerPort": 9091}],
                    "volumeMounts": [{"name": "patio", "mountPath": "/var/lib/patio"}],
                }
            ],
            "volumes": [{"name": "patio", "emptyDir": {}}],
        },
    }
)


def test_injected_pod_is_valid_for_api_server_and_injected_once(plane: ControlPlane) -> None:
    namespace = "kube-system"  # whose pods never reach the webhook
    engine = {
        "name": "vllm",
        "image": "vllm",
        "command": ["vllm", "serve", "m", "--enable-lora"],
        "ports": [{"containerPort": 8000}],
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "engine",
            "namespace": namespace,
            "labels": {"rbg.workloads.x-k8s.io/group-name": "g", "rbg.workloads.x-k8s.io/role-name": "r"},
        },
        "spec": {
            "containers": [engine],
            "volumes": [{"name": "models", "hostPath": {"path": "/srv/models"}}],
        },
    }
    plane.kubectl("-n", namespace, "create", "serviceaccount", "default")
    create = ("create", "--dry-run=server", "-o", "json", "-f", "-")
    as_admitted = json.loads(plane.kubectl(*create, stdin=json.dumps(pod)))
    injection = inject(as_admitted, (Runtime(PROFILE),), (), CallerKeys(("key",), "a word"))
    assert isinstance(injection, Injection)
    for key in ("uid", "creationTimestamp", "managedFields"):
        injection.pod["metadata"].pop(key, None)
    as_stored = json.loads(plane.kubectl(*create, stdin=json.dumps(injection.pod)))
    assert as_stored["spec"]["containers"][0]["lifecycle"]["preStop"]["httpGet"]["path"] == "/v1/drain?timeout=23"
    again = inject(as_stored, (Runtime(PROFILE),), (), CallerKeys(("newer",), "another word"))
    assert isinstance(again, Injection)
    assert json_patch(as_stored, again.pod) == []

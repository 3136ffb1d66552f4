"""The CRDs of ModelEndpoint and DemandReport on a real API server: what it accepts, what it rejects, in which words."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from e2e_cluster.control_plane import ControlPlane
from patio_api.crd import NOT_INSTALLED
from patio_testing.deadline import DEADLINE

pytestmark = pytest.mark.api

Object = dict[str, Any]
URI = {"uri": "hf://Qwen/Qwen3-8B"}
SPLIT: Object = {
    "engine": "sglang",
    "roles": [{"type": "prefill"}, {"type": "decode"}],
    "router": {"image": "registry.example.com/router:1"},
}
DRY = ("create", "--dry-run=server", "-o", "json")


@pytest.fixture(scope="module", autouse=True)
def kinds(plane: ControlPlane) -> Iterator[None]:
    """The kinds, which the chart does not install yet."""
    documents = [definition.to_api() for definition in NOT_INSTALLED]
    names = [f"crd/{document['metadata']['name']}" for document in documents]
    for document in documents:
        plane.kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(document))
    plane.kubectl("wait", "--for=condition=Established", f"--timeout={DEADLINE:.0f}s", *names)
    yield
    plane.kubectl("delete", *names)


def endpoint(name: str = "qwen", **spec: Any) -> Object:
    return {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "ModelEndpoint",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": URI} | spec,
    }


def rejected(plane: ControlPlane, document: Object) -> str:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        plane.kubectl(*DRY, "-f", "-", stdin=json.dumps(document))
    return str(failure.value.stderr)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        SPLIT,
        {"model": {"uri": "s3://bucket/qwen"}, "source": {"secretRef": {"name": "s"}, "endpoint": "https://s3.local"}},
        {"model": {"uri": "pvc://qwen"}, "cache": {"persistentVolumeClaim": "models"}},
        {"model": {"uri": "a/b", "name": "chat", "aliases": ["Qwen/Qwen3-8B"]}},
        {"workers": {"min": 1, "max": 4, "scaleToZeroAfter": "1h30m"}, "autoscaling": "external"},
        {"autoscaling": "external", "workers": {"replicas": 0}},
        {"roles": [{"type": "server", "nodesPerWorker": 2, "template": {"spec": {"nodeSelector": {"a": "b"}}}}]},
        {"kind": "async", "async": {"visibility": "30s", "callback": {"url": "https://example.com/done"}}},
    ],
)
def test_what_is_right_is_accepted(plane: ControlPlane, spec: Object) -> None:
    plane.kubectl(*DRY, "-f", "-", stdin=json.dumps(endpoint(**spec)))


def test_defaults_are_filled_in(plane: ControlPlane) -> None:
    stored = json.loads(plane.kubectl(*DRY, "-f", "-", stdin=json.dumps(endpoint())))["spec"]
    assert (stored["engine"], stored["autoscaling"], stored["workers"]["max"]) == ("vllm", "patio", 1)
    assert (stored["routing"]["loadBound"], stored["queue"]["timeout"]) == (1.25, "5m")
    assert "replicas" not in stored["workers"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"model": {"uri": "https://x"}}, "uri must be one of"),
        ({"model": {"uri": "hf://a/b/c"}}, "a whole repository"),
        ({"model": {"uri": "a/b", "name": "x", "aliases": ["x"]}}, "aliases has the name itself"),
        ({"model": {"uri": "a/b", "aliases": ["qwen"]}}, "which is metadata.name"),
        ({"model": {"uri": "a/b", "aliases": ["x", "x"]}}, "Duplicate value"),
        ({"workers": {"min": 3, "max": 2}}, "min must not be greater than max"),
        ({"workers": {"scaleToZeroAfter": "1s"}}, "scaleToZeroAfter must be between 10s and 168h"),
        ({"workers": {"loadingGrace": "later"}}, "should match"),
        ({"autoscaling": "external"}, "set workers.min to 1"),
        ({"roles": [{"type": "prefill"}]}, "one of type prefill and one of type decode"),
        ({"roles": [{"type": "server"}, {"type": "decode"}]}, "a server role answers by itself"),
        ({"roles": [{"type": "server", "perWorker": 2}]}, "perWorker is for prefill and decode"),
        (SPLIT | {"engine": "vllm"}, "engine: sglang only"),
        (SPLIT | {"router": None}, "give router.image"),
        (SPLIT | {"engineRuntimes": []}, "registered with their router by the sidecar"),
        ({"router": {"image": "x"}}, "router is for prefill and decode roles"),
        ({"model": {"uri": "pvc://x"}}, "cache.persistentVolumeClaim"),
        ({"model": {"uri": "s3://bucket/x"}, "engineRuntimes": []}, "the sidecar downloads"),
        ({"model": {"uri": "file:///x"}, "source": {}}, "are not fetched"),
        ({"cache": {"hostPath": "/a", "persistentVolumeClaim": "b"}}, "exactly one of hostPath"),
        ({"cache": {"hostPath": "/a/../b"}}, "must not have . or .."),
        ({"routing": {"fallbacks": ["qwen"]}}, "cannot be its own fallback"),
        ({"model": URI, "source": {"endpoint": "http://s3", "secretRef": {"name": "s"}}}, "without TLS"),
    ],
)
def test_what_is_wrong_is_rejected_with_a_remedy(plane: ControlPlane, spec: Object, words: str) -> None:
    document = endpoint(**{key: value for key, value in spec.items() if value is not None})
    assert words in rejected(plane, document)


def test_name_that_no_service_can_have_is_rejected(plane: ControlPlane) -> None:
    assert "choose another metadata.name" in rejected(plane, endpoint("8b"))


def test_scale_subresource_writes_the_number_of_workers(plane: ControlPlane) -> None:
    plane.kubectl("create", "-f", "-", stdin=json.dumps(endpoint("scaled", workers={"replicas": 0, "max": 8})))
    plane.kubectl("scale", "mep/scaled", "--replicas=3", "-n", "default")
    stored = json.loads(plane.kubectl("get", "mep", "scaled", "-n", "default", "-o", "json"))
    assert stored["spec"]["workers"]["replicas"] == 3
    plane.kubectl("delete", "mep", "scaled", "-n", "default")


def test_report_has_the_name_of_its_gateway(plane: ControlPlane) -> None:
    report: Object = {
        "apiVersion": "patio.dev/v1alpha1",
        "kind": "DemandReport",
        "metadata": {"name": "gateway-0", "namespace": "default"},
        "spec": {"gateway": "gateway-0", "reportedAt": "2026-11-27T12:00:00Z"},
    }
    report["spec"]["endpoints"] = [{"endpoint": f"team/model-{number}", "held": 1} for number in range(2_000)]
    plane.kubectl(*DRY, "-f", "-", stdin=json.dumps(report))
    report["spec"]["endpoints"].append({"endpoint": "team/last"})
    assert "must have at most 2000 items" in rejected(plane, report)
    report["spec"] |= {"endpoints": [], "gateway": "gateway-1"}
    assert "set metadata.name to spec.gateway" in rejected(plane, report)

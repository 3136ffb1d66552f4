"""Upstream's own manifests, applied where the operator runs: what comes of each is said, and nothing is rejected."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from patio_testing.kube import Kube, condition, until
from patio_testing.upstream_samples import SAMPLES

pytestmark = pytest.mark.api

PROFILES = ("nvidia-runtime-profile", "sglang-pd-runtime")


@pytest.mark.timeout(600)
@pytest.mark.usefixtures("operator")
def test_every_sample_gets_its_objects_or_a_reason(kube: Kube) -> None:
    groups: dict[tuple[str, str], str] = {}
    for number, path in enumerate(sorted(SAMPLES.rglob("*.yaml"))):
        namespace = f"sample-{number}"
        kube.kubectl("create", "namespace", namespace)
        documents = [document for document in yaml.safe_load_all(path.read_text()) if document]
        for document in documents:
            document["metadata"]["namespace"] = namespace
        kube.apply(*documents)
        for document in documents:
            if document["kind"] == "RoleBasedGroup":
                groups[namespace, document["metadata"]["name"]] = str(path.relative_to(SAMPLES))
    summary = []
    for (namespace, name), path in groups.items():
        group_path = f"/apis/workloads.x-k8s.io/v1alpha2/namespaces/{namespace}/rolebasedgroups/{name}"

        def verdict(path: str = group_path) -> Any:
            return condition(kube.get(path), "Ready")

        ready = until(f"the verdict on {path}", verdict)
        label = f"rbg.workloads.x-k8s.io/group-name={name}"
        names = kube.kubectl("-n", namespace, "get", "statefulsets,pods", "-l", label, "-o", "name").split()
        assert ready["reason"] in ("RoleNotReady", "Unsupported"), (path, ready)
        assert bool(names) == (ready["reason"] == "RoleNotReady"), (path, names)
        summary.append(f"{path}: {name}: {', '.join(names) or ready['message']}")
    print(*summary, sep="\n")
    kube.kubectl("delete", "clusterengineruntimeprofiles", "--ignore-not-found", *PROFILES)
    assert len(summary) == 44

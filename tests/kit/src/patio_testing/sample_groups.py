"""Upstream's sample manifests, made to run here: what is taken out of them, and what a group is expected to become.

Commands, ports, names, dependencies, patterns and templates stay as they are written; `runnable` has the whole list of
what does not. The image that stands for theirs is described in `tests/cluster/images/stand_ins.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from patio_testing.environment import TAG

PARTS = f"ghcr.io/patio/sample-parts:{TAG}"
SIDECAR = f"ghcr.io/patio/sidecar:{TAG}"
MOST_REPLICAS = 2
NOT_HERE = ("resources", "nodeSelector", "tolerations", "schedulerName")
"""GPUs, RDMA cards, 128 GB of memory, and the nodes and schedulers that know of them."""
PROBES = ("readinessProbe", "livenessProbe", "startupProbe")


def documents(path: Path, namespace: str) -> list[dict[str, Any]]:
    """Return the objects of a sample for a namespace, runnable, with the claims that their pods name."""
    found = [runnable(document) for document in yaml.safe_load_all(path.read_text()) if document]
    if any("engineRuntimes" in role for document in found for role in document.get("spec", {}).get("roles", ())):
        found = [without_workers(document) for document in found]
    for document in found:
        document["metadata"]["namespace"] = namespace
    return [*found, *(claim(name, namespace) for name in sorted(set(claims(found))))]


def runnable(value: Any) -> Any:
    """Return a sample, or a part of one, as this machine can run it."""
    if isinstance(value, list):
        return [runnable(item) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: runnable(item) for key, item in value.items() if key not in NOT_HERE}
    if "image" in result:
        result["image"] = SIDECAR if "patio-runtime" in result["image"] else PARTS
        result["imagePullPolicy"] = "IfNotPresent"
    for key in PROBES:
        if key in result:
            result[key] |= {"initialDelaySeconds": 1, "periodSeconds": 1, "failureThreshold": 60}
    if isinstance(result.get("replicas"), int):
        result["replicas"] = min(result["replicas"], MOST_REPLICAS)
    return result


def without_workers(value: Any) -> Any:
    """Return a group whose router knows no workers but those that their sidecars register."""
    if isinstance(value, list):
        return [without_workers(item) for item in value]
    if isinstance(value, dict):
        return {key: without_workers(item) for key, item in value.items()}
    is_script = isinstance(value, str) and "launch_router" in value
    return re.sub(r"--(prefill|decode) http\S+( \d+)?", "", value) if is_script else value


def claims(value: Any) -> Iterator[str]:
    """Yield the names of the claims that are mounted."""
    if isinstance(value, list):
        for item in value:
            yield from claims(item)
    elif isinstance(value, dict):
        if "claimName" in value:
            yield value["claimName"]
        for item in value.values():
            yield from claims(item)


def claim(name: str, namespace: str) -> dict[str, Any]:
    """Return a claim for a small volume."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Mi"}},
        },
    }


def volume(claimed: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return a folder of the node as the volume of a claim."""
    name, namespace = claimed["metadata"]["name"], claimed["metadata"]["namespace"]
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"{namespace}-{name}", "labels": {"of": namespace}},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "capacity": {"storage": "1Mi"},
            "hostPath": {"path": str(path), "type": "Directory"},
            "claimRef": {"name": name, "namespace": namespace},
        },
    }


@dataclass(frozen=True)
class Role:
    """What a role of a group is expected to become."""

    name: str
    instances: int
    size: int | None
    """Pods of an instance; None for a standalone role."""
    dependencies: tuple[str, ...]
    profiles: tuple[str, ...]

    def pods(self, group: str) -> set[str]:
        """Return the names of its pods."""
        instances = {f"{group}-{self.name}-{index}" for index in range(self.instances)}
        if self.size is None:
            return instances
        return {f"{instance}-{position}" for instance in instances for position in range(self.size)}


def roles(group: dict[str, Any]) -> list[Role]:
    """Return the roles of a group that was read as v1alpha2."""
    return [
        Role(
            role["name"],
            role.get("replicas", 1),
            role["leaderWorkerPattern"].get("size", 1) if role.get("leaderWorkerPattern") else None,
            tuple(role.get("dependencies") or ()),
            tuple(runtime["profileName"] for runtime in role.get("engineRuntimes") or ()),
        )
        for role in group["spec"]["roles"]
    ]

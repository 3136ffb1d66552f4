"""A workload as a roll sees it: what it was last rolled for, whether it is up, and what keeps it from being rolled.

Comes after `consumers`: from the Deployments, StatefulSets and DaemonSets whose pods are behind; `roles` reads the
roles that have none of these. How a workload replaces its pods is its own strategy's business; a strategy that replaces
none keeps it from being rolled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patio_api import rollout_annotations
from patio_api.labels import FIELD_MANAGER
from patio_api.owners import controller
from patio_operator.pods.profile_use import WorkloadRef


@dataclass(frozen=True)
class Workload:
    """A workload that can be rolled."""

    ref: WorkloadRef
    resource_version: str
    rolled: Mapping[str, str] = field(default_factory=dict)
    """The revision of each profile that it was last rolled for."""
    is_up: bool = True
    """Whether all pods that its strategy replaces are of its newest template, and all pods are available."""
    progress: int = 0
    """A number that changes while its pods become ready."""
    failure: str = ""
    """Why it does not become ready, in the words of its own controller."""
    has_deadline: bool = False
    """Whether its controller says so after a time."""
    held: str = ""
    """Why it is not rolled."""


def decode(kind: str, body: Mapping[str, Any]) -> Workload:
    """Read a Deployment, a StatefulSet or a DaemonSet."""
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    observed = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    if kind == "DaemonSet":
        wanted = replaced = int(status.get("desiredNumberScheduled", 0))
        updated, available = status.get("updatedNumberScheduled", 0), status.get("numberAvailable", 0)
        total = wanted
    else:
        wanted = int(spec.get("replicas", 1))
        replaced = max(wanted - _partition(spec), 0)
        updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
        total = int(status.get("replicas", 0))
    return Workload(
        ref=WorkloadRef(kind, metadata["namespace"], metadata["name"]),
        resource_version=metadata["resourceVersion"],
        rolled=rollout_annotations.of_template((spec.get("template") or {}).get("metadata") or {}),
        is_up=observed and updated >= replaced and available >= wanted and total <= wanted,
        progress=int(updated) + int(available),
        failure=_failure(status) if observed else "",
        has_deadline=kind == "Deployment",
        held=_held(metadata) or _never_replaced(spec, wanted, replaced),
    )


def template_patch(rolled_for: Mapping[str, str]) -> dict[str, Any]:
    """Return the patch of a workload that makes its template another one."""
    return {"spec": {"template": {"metadata": {"annotations": rollout_annotations.template_annotation(rolled_for)}}}}


def _partition(spec: Mapping[str, Any]) -> int:
    return int(((spec.get("updateStrategy") or {}).get("rollingUpdate") or {}).get("partition") or 0)


def _failure(status: Mapping[str, Any]) -> str:
    conditions = {condition["type"]: condition for condition in status.get("conditions") or []}
    failure, progressing = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
    if failure.get("status") == "True":
        return str(failure.get("message") or failure.get("reason"))
    if progressing.get("status") == "False" and progressing.get("reason") == "ProgressDeadlineExceeded":
        return str(progressing.get("message") or "its progress deadline is exceeded")
    return ""


def _held(metadata: Mapping[str, Any]) -> str:
    owner = controller(metadata)
    if owner is None:
        return ""
    applied_by = {
        entry.get("manager") for entry in metadata.get("managedFields") or [] if entry.get("operation") == "Apply"
    }
    if owner["kind"] == "RoleBasedGroup" and FIELD_MANAGER in applied_by:
        return ""
    return f"it is controlled by {owner['kind']} {owner['name']}"


def _never_replaced(spec: Mapping[str, Any], wanted: int, replaced: int) -> str:
    if spec.get("paused"):
        return "it is paused"
    if (spec.get("updateStrategy") or {}).get("type") == "OnDelete":
        return "its updateStrategy is OnDelete"
    if wanted and not replaced:
        return "its partition excludes every pod"
    return ""

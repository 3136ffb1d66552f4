"""ClusterEngineRuntimeProfile: what injection adds to engine pods (upstream's kind).

Read by `injection` and `profiles`. Both versions have the same fields, so no conversion is needed. Containers and
volumes are Kubernetes' own types: only their name is declared here, the rest is kept as it is and checked by the
API server, which is asked to make a pod with them before the profile is stored (`profiles.validation`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from patio_api.meta import Conditions, Int32, Int64, Model, ObjectMeta

DNS_LABEL = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def _named(description: str) -> dict[str, Any]:
    """Say of a list of Containers or Volumes what fits in a few lines; the trial of a profile does the rest."""
    name = {"type": "string", "description": "Unique in the pod.", "maxLength": 63, "pattern": DNS_LABEL}
    return {
        "items": {
            "type": "object",
            "description": description,
            "required": ["name"],
            "properties": {"name": name},
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"],
    }


NamedContainers = Annotated[tuple[dict[str, Any], ...], Field(json_schema_extra=_named("A core/v1 Container."))]
NamedVolumes = Annotated[tuple[dict[str, Any], ...], Field(json_schema_extra=_named("A core/v1 Volume."))]


class ProfileSpec(Model):
    """What is added to a pod that asks for this profile."""

    init_containers: NamedContainers = ()
    """Appended to the pod's init containers. With `restartPolicy: Always` a native sidecar, which Patio's
    own should be."""
    containers: NamedContainers = ()
    """Appended to the pod's containers."""
    volumes: NamedVolumes = ()
    """Appended to the pod's volumes. Those that hold files and that the profile's containers mount are also
    mounted, at the same path, in the containers named by injectContainers, or read-only in the engine
    container."""
    update_strategy: Literal["NoUpdate", "RollingUpdate"] = "NoUpdate"
    """What a change of the profile does to running pods. NoUpdate: nothing, new pods get it. RollingUpdate: the
    workloads that use it are rolled, one after the other, each by its own strategy."""


class Rolling(Model):
    """A workload that is being rolled."""

    kind: str
    """Deployment, StatefulSet or DaemonSet; RoleBasedGroup for one of its leader-worker roles."""
    namespace: str
    """Its namespace."""
    name: str
    """Its name; GROUP/ROLE of a leader-worker role."""
    since: datetime
    """When its numbers last changed."""
    progress: Int32 = 0
    """Pods that are updated and pods that are available, added up."""


class ProfileStatus(Model):
    """Which pods have the profile, and whether they run its current revision."""

    observed_generation: Annotated[Int64, Field(ge=0)] = 0
    """The metadata.generation that this status was computed from."""
    revision: str = ""
    """Hash of what the profile adds to a pod now; injected pods have theirs in the annotation
    patio.dev/injected."""
    pods: Int32 = 0
    """Pods that have the profile."""
    current_pods: Int32 = 0
    """Pods among them that run the current revision."""
    behind_pods: Int32 = 0
    """Pods among them that run an older revision."""
    last_error: str = ""
    """The current error: why a pod with the profile would be rejected, or which workload did not become ready."""
    rolling: tuple[Rolling, ...] = ()
    """The workloads that are being rolled."""
    conditions: Conditions = ()
    """Accepted: the API server accepts a pod with the profile. RolledOut: all injected pods run the current
    revision."""


class ClusterEngineRuntimeProfile(Model):
    """Containers and volumes that are added to the engine pods which ask for this profile."""

    group: ClassVar[str] = "workloads.x-k8s.io"
    version: ClassVar[str] = "v1alpha2"
    kind: ClassVar[str] = "ClusterEngineRuntimeProfile"
    plural: ClassVar[str] = "clusterengineruntimeprofiles"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: ProfileSpec
    """What is added to a pod that asks for this profile."""
    status: ProfileStatus = ProfileStatus()
    """Which pods have the profile, and whether they run its current revision."""

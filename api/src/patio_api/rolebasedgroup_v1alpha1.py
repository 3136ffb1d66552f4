"""RoleBasedGroup v1alpha1, as upstream's: served for old manifests, never stored.

Only its CRD schema comes from here. Nothing in the operator reads objects of this version: the API server has
`groups.conversion` turn them into v1alpha2 (`rolebasedgroup`), which is the one model that the operator works with.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from patio_api.meta import Int32, LabelMap, Model, ObjectMeta, Opaque
from patio_api.rolebasedgroup import (
    MAP_BY_NAME,
    EngineRuntime,
    PodTemplate,
    RestartPolicy,
    RoleBasedGroupStatus,
    RoleTemplate,
    RolloutStrategy,
    ServicePort,
)
from patio_api.schema import OBJECT_DEFAULT

_TEMPLATE_OR_REFERENCE: dict[str, Any] = {
    "rule": "!(has(self.template) && has(self.templateRef))",
    "message": "template and templateRef exclude each other",
}
_A_TEMPLATE: dict[str, Any] = {
    "rule": "(has(self.workload) && self.workload.kind == 'InstanceSet' && !has(self.leaderWorkerSet)) "
    "|| has(self.template) || has(self.templateRef)",
    "message": "template or templateRef must be given; only workload kind InstanceSet may have components instead",
}
_PERCENTAGE = r"^([0-9]|[1-9][0-9]|100)%$"
_API_VERSION = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/v[0-9]+((alpha|beta)[0-9]+)?$"

_STATEFUL_SET = {"apiVersion": "apps/v1", "kind": "StatefulSet"}

Percentage = Annotated[str, Field(pattern=_PERCENTAGE)]


class Workload(Model):
    """The kind of object that makes the role's pods."""

    api_version: Annotated[str, Field(pattern=_API_VERSION)] = "apps/v1"
    """Its API version."""
    kind: str = "StatefulSet"
    """Its kind."""


class TemplateRef(Model):
    """A shared pod template."""

    name: Annotated[str, Field(min_length=1)]
    """Name of an entry of spec.roleTemplates."""


class LeaderWorkerSet(Model):
    """One leader and size - 1 workers per instance."""

    size: Int32 = 1
    """Pods per instance, the leader included."""
    patch_leader_template: Opaque | None = None
    """Strategic merge patch on the leader's pod template."""
    patch_worker_template: Opaque | None = None
    """Strategic merge patch on the workers' pod template."""


class Component(Model):
    """One kind of pod in an instance of custom components."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the component."""
    size: Int32 | None = None
    """Pods of this component per instance."""
    service_name: str | None = None
    """Headless Service that gives the pods their names."""
    template: Opaque
    """The pod template."""


class ScalingAdapter(Model):
    """Asks upstream's controller for a RoleBasedGroupScalingAdapter."""

    enable: bool = False
    """Whether upstream makes one. Patio's manage mode has none: scale by editing replicas."""


class Role(Model):
    """Pods that do the same work."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_TEMPLATE_OR_REFERENCE, _A_TEMPLATE]})

    name: Annotated[str, Field(min_length=1)]
    """Name of the role, unique in the group. Pods are called GROUP-ROLE-INDEX."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the workload; not of the pods."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the workload and the Service; not of the pods."""
    replicas: Annotated[Int32, Field(ge=0)] = 1
    """Instances of the role."""
    rollout_strategy: RolloutStrategy | None = None
    """How a changed pod template reaches the pods."""
    restart_policy: RestartPolicy | None = None
    """What a restarted pod does to the other pods of its instance."""
    dependencies: tuple[str, ...] = ()
    """Roles that must be ready before this one is created."""
    workload: Annotated[Workload | None, Field(json_schema_extra={OBJECT_DEFAULT: _STATEFUL_SET})] = None
    """The kind of object that makes the pods for upstream. Manage mode has its own way."""
    template: PodTemplate | None = None
    """The pod template. Exactly one of template and templateRef, unless there are components."""
    template_ref: TemplateRef | None = None
    """A shared pod template."""
    template_patch: Opaque | None = None
    """Strategic merge patch on the shared pod template."""
    leader_worker_set: LeaderWorkerSet | None = None
    """One leader and its workers per instance."""
    components: tuple[Component, ...] = ()
    """Different pods in one instance. Not realised by Patio."""
    service_ports: tuple[ServicePort, ...] = ()
    """Ports to list in the topology file. The role's Service has none."""
    engine_runtimes: tuple[EngineRuntime, ...] = ()
    """Profiles to inject into the role's pods."""
    scaling_adapter: ScalingAdapter | None = None
    """Asks upstream's controller for a RoleBasedGroupScalingAdapter."""
    min_ready_seconds: Int32 = 0
    """Seconds that a pod must be ready before it counts as available."""


class KubeScheduling(Model):
    """Gang scheduling by scheduler-plugins."""

    schedule_timeout_seconds: Int32 = 60
    """Seconds that the pods may wait for each other."""


class VolcanoScheduling(Model):
    """Gang scheduling by Volcano."""

    priority_class_name: str | None = None
    """Priority of the pods' group."""
    queue: str | None = None
    """Queue that the resources come from."""


class PodGroupPolicy(Model):
    """Gang scheduling: all pods of the group or none. Not realised by Patio."""

    kube_scheduling: KubeScheduling | None = None
    """By scheduler-plugins."""
    volcano_scheduling: VolcanoScheduling | None = None
    """By Volcano."""


class CoordinatedRollingUpdate(Model):
    """How far apart the updates of roles may be."""

    max_skew: Percentage | None = None
    """Difference between the shares of updated instances."""
    partition: Percentage | None = None
    """Replaces the partition of the roles."""
    max_unavailable: Percentage | None = None
    """Replaces the maxUnavailable of the roles."""


class CoordinatedScaling(Model):
    """How far apart the scaling of roles may be."""

    max_skew: Percentage | None = None
    """Difference between the shares of instances that are there."""
    progression: Literal["OrderScheduled", "OrderReady"] | None = None
    """What the next step waits for."""


class CoordinationStrategy(Model):
    """What is coordinated."""

    rolling_update: CoordinatedRollingUpdate | None = None
    """Updates."""
    scaling: CoordinatedScaling | None = None
    """Scaling."""


class Coordination(Model):
    """Roles that change together. Not realised by Patio."""

    name: str
    """Name of the rule."""
    roles: tuple[str, ...]
    """The roles."""
    strategy: CoordinationStrategy | None = None
    """What is coordinated."""


class RoleBasedGroupV1alpha1Spec(Model):
    """The roles."""

    roles: Annotated[tuple[Role, ...], Field(min_length=1, json_schema_extra=MAP_BY_NAME)]
    """Pods that do the same work, role by role."""
    role_templates: Annotated[tuple[RoleTemplate, ...], Field(json_schema_extra=MAP_BY_NAME)] = ()
    """Pod templates that roles share."""
    pod_group_policy: PodGroupPolicy | None = None
    """Gang scheduling. Not realised by Patio."""
    coordination: Annotated[tuple[Coordination, ...], Field(json_schema_extra=MAP_BY_NAME)] = ()
    """Roles that change together. Not realised by Patio."""


class RoleBasedGroupV1alpha1(Model):
    """Roles of an inference service that are deployed together."""

    group: ClassVar[str] = "workloads.x-k8s.io"
    version: ClassVar[str] = "v1alpha1"
    kind: ClassVar[str] = "RoleBasedGroup"
    plural: ClassVar[str] = "rolebasedgroups"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: RoleBasedGroupV1alpha1Spec
    """The roles."""
    status: RoleBasedGroupStatus = RoleBasedGroupStatus()
    """What there is of the group."""

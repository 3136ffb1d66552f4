"""RoleBasedGroup v1alpha2: roles of an inference service deployed together (upstream's kind).

Read by `groups`, which realises it in manage mode and computes its status. Every field of upstream's schema
is here, also those that this version rejects with a condition, so that upstream's manifests apply. Pod
templates are kept as they are: upstream's own samples carry fields that Kubernetes does not know.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from patio_api.meta import Conditions, Int32, Int64, LabelMap, Model, ObjectMeta, Opaque
from patio_api.profile import NamedContainers

IntOrString = int | str

PodTemplate = Annotated[
    dict[str, Any],
    Field(
        json_schema_extra={
            "type": "object",
            "required": ["spec"],
            "properties": {
                "metadata": {
                    "type": "object",
                    "description": "Labels and annotations of the pods.",
                    "x-kubernetes-preserve-unknown-fields": True,
                },
                "spec": {
                    "type": "object",
                    "description": "A core/v1 PodSpec.",
                    "required": ["containers"],
                    "properties": {
                        "containers": {
                            "type": "array",
                            "description": "Containers of the pod.",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "description": "A core/v1 Container.",
                                "required": ["name"],
                                "properties": {"name": {"type": "string", "description": "Name, unique in the pod."}},
                                "x-kubernetes-preserve-unknown-fields": True,
                            },
                        }
                    },
                    "x-kubernetes-preserve-unknown-fields": True,
                },
            },
            "x-kubernetes-preserve-unknown-fields": True,
        }
    ),
]

_TEMPLATE_OR_REFERENCE: dict[str, Any] = {
    "rule": "has(self.template) != has(self.templateRef)",
    "message": "exactly one of template and templateRef must be given",
}
_ONE_PATTERN: dict[str, Any] = {
    "rule": "!(has(self.standalonePattern) && has(self.leaderWorkerPattern))",
    "message": "standalonePattern and leaderWorkerPattern exclude each other",
}
_DELAYS_IN_ORDER: dict[str, Any] = {
    "rule": "self.maxDelaySeconds >= self.baseDelaySeconds",
    "message": "maxDelaySeconds must not be less than baseDelaySeconds",
}
MAP_BY_NAME: dict[str, Any] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
"""Makes a list one of named elements."""

RestartPolicy = Literal["None", "RecreateRoleInstanceOnPodRestart"]


class RoleTemplate(Model):
    """A pod template that roles share."""

    name: Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    """Name that templateRef refers to."""
    template: PodTemplate
    """The pod template."""


class TemplateRef(Model):
    """A shared pod template and what differs from it."""

    name: Annotated[str, Field(min_length=1)]
    """Name of an entry of spec.roleTemplates."""
    patch: Opaque | None = None
    """Strategic merge patch on that template. Absent: the unchanged template."""


class StandalonePattern(Model):
    """One pod per instance."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_TEMPLATE_OR_REFERENCE]})

    template: PodTemplate | None = None
    """The pod template. Exactly one of template and templateRef."""
    template_ref: TemplateRef | None = None
    """A shared pod template. Exactly one of template and templateRef."""


class RestartPolicyConfig(Model):
    """What a restarted pod does to the other pods of its instance."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_DELAYS_IN_ORDER]})

    type: RestartPolicy | None = None
    """None: nothing. RecreateRoleInstanceOnPodRestart: all pods of the instance are recreated."""
    base_delay_seconds: Annotated[Int32, Field(ge=0)] = 30
    """Pause before the second re-creation; doubles with each further one."""
    max_delay_seconds: Annotated[Int32, Field(ge=0)] = 600
    """The longest pause."""


class LeaderWorkerPattern(Model):
    """One leader and size - 1 workers per instance."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_TEMPLATE_OR_REFERENCE]})

    template: PodTemplate | None = None
    """The pod template. Exactly one of template and templateRef."""
    template_ref: TemplateRef | None = None
    """A shared pod template. Exactly one of template and templateRef."""
    size: Int32 = 1
    """Pods per instance, the leader included."""
    leader_template_patch: Opaque | None = None
    """Strategic merge patch on the leader's pod template."""
    worker_template_patch: Opaque | None = None
    """Strategic merge patch on the workers' pod template."""
    shared_service_selection: Literal["All", "LeaderOnly"] | None = None
    """Which pods the role's Service selects."""
    restart_policy: RestartPolicy | None = None
    """Deprecated: use restartPolicyConfig.type."""
    restart_policy_config: RestartPolicyConfig | None = None
    """What a restarted pod does to the other pods of its instance."""


class Component(Model):
    """One kind of pod in an instance of custom components."""

    name: Annotated[str, Field(min_length=1)]
    """Name of the component."""
    template: Opaque
    """The pod template."""
    size: Int32 | None = None
    """Pods of this component per instance."""
    service_name: str | None = None
    """Headless Service that gives the pods their names."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the pods; they take precedence over the template's."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the pods; they take precedence over the template's."""


class CustomComponentsPattern(Model):
    """Different pods in one instance. Not realised by this version of Patio."""

    components: tuple[Component, ...] = ()
    """The kinds of pods in an instance."""
    restart_policy: RestartPolicy | None = None
    """Deprecated: use restartPolicyConfig.type."""
    restart_policy_config: RestartPolicyConfig | None = None
    """What a restarted pod does to the other pods of its instance."""


class EngineRuntime(Model):
    """A profile to inject into the role's pods."""

    profile_name: Annotated[str, Field(min_length=1)]
    """Name of the ClusterEngineRuntimeProfile."""
    inject_containers: tuple[str, ...] = ()
    """Containers of the pod that get the profile's volumes and variables. Default: the engine container
    gets the volumes, read-only."""
    containers: NamedContainers = ()
    """Overrides of the profile's containers, found by name: env replaces by name, args are appended, image
    and resources replace, ports get another containerPort by name."""


class ScalingAdapter(Model):
    """Asks upstream's controller for a RoleBasedGroupScalingAdapter."""

    enable: bool = False
    """Whether upstream makes one. Patio's manage mode has none: scale by editing replicas."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the adapter."""


class InPlaceUpdateStrategy(Model):
    """How containers are replaced inside a running pod (upstream)."""

    grace_period_seconds: Annotated[Int32, Field(ge=0)] = 0
    """Seconds that the pod is not ready before its image changes."""


class RollingUpdate(Model):
    """How a changed pod template reaches the pods."""

    type: str | None = None
    """InPlaceIfPossible, InPlaceOnly or RecreatePod. Patio's manage mode always recreates pods."""
    partition: IntOrString = 0
    """Ordinals below it keep the old revision."""
    max_unavailable: IntOrString = 1
    """Pods that may be down at once during an update."""
    max_surge: IntOrString = 0
    """Extra pods during an update. Treated as 0 in manage mode."""
    paused: bool = False
    """Stops the update."""
    in_place_update_strategy: InPlaceUpdateStrategy | None = None
    """How containers are replaced inside a running pod (upstream)."""


class RolloutStrategy(Model):
    """How a changed pod template reaches the pods."""

    type: Literal["RollingUpdate"] = "RollingUpdate"
    """The only strategy."""
    rolling_update: RollingUpdate | None = None
    """Its parameters."""


class ServicePort(Model):
    """A port that the topology file lists (core/v1 ServicePort)."""

    name: str | None = None
    """Name of the port; its key in the file."""
    port: Int32
    """The number in the file."""
    protocol: str = "TCP"
    """Not used."""
    target_port: IntOrString | None = None
    """Not used."""
    node_port: Int32 | None = None
    """Not used."""
    app_protocol: str | None = None
    """Not used."""


class Role(Model):
    """Pods that do the same work."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [_ONE_PATTERN]})

    name: Annotated[str, Field(min_length=1)]
    """Name of the role, unique in the group. Pods are named GROUP-ROLE-INDEX."""
    labels: LabelMap = Field(default_factory=dict)
    """Labels of the workload; not of the pods."""
    annotations: LabelMap = Field(default_factory=dict)
    """Annotations of the workload and the Service; not of the pods. Some are directives to upstream's
    controller."""
    replicas: Annotated[Int32, Field(ge=0)] = 1
    """Instances of the role."""
    dependencies: tuple[str, ...] = ()
    """Roles that must be ready before this one is created."""
    service_ports: tuple[ServicePort, ...] = ()
    """Ports to list in the topology file. The role's Service has none."""
    min_ready_seconds: Int32 = 0
    """Seconds that a pod must be ready before it counts as available."""
    pod_management_policy: Literal["Parallel", "OrderedReady"] = "Parallel"
    """Whether pods start together or one after the other. Manage mode starts them together."""
    engine_runtimes: tuple[EngineRuntime, ...] = ()
    """Profiles to inject into the role's pods."""
    scaling_adapter: ScalingAdapter | None = None
    """Asks upstream's controller for a RoleBasedGroupScalingAdapter."""
    rollout_strategy: RolloutStrategy | None = None
    """How a changed pod template reaches the pods."""
    standalone_pattern: StandalonePattern | None = None
    """One pod per instance."""
    leader_worker_pattern: LeaderWorkerPattern | None = None
    """One leader and its workers per instance."""
    custom_components_pattern: CustomComponentsPattern | None = None
    """Different pods in one instance. Not realised by this version of Patio."""


class RoleBasedGroupSpec(Model):
    """The roles."""

    role_templates: Annotated[tuple[RoleTemplate, ...], Field(json_schema_extra=MAP_BY_NAME)] = ()
    """Pod templates that roles share."""
    roles: Annotated[tuple[Role, ...], Field(min_length=1, json_schema_extra=MAP_BY_NAME)]
    """Pods that do the same work, role by role."""


class RoleStatus(Model):
    """How many instances of a role there are."""

    name: str
    """Name of the role."""
    replicas: Annotated[Int32, Field(ge=0)]
    """Instances that exist."""
    ready_replicas: Annotated[Int32, Field(ge=0)]
    """Instances that are ready."""
    updated_replicas: Annotated[Int32, Field(ge=0)]
    """Instances of the latest revision."""


class RoleBasedGroupStatus(Model):
    """State of the group."""

    observed_generation: Annotated[Int64 | None, Field(ge=0)] = None
    """The metadata.generation that this status was computed from."""
    conditions: Conditions = ()
    """Ready: every role has all its instances, all of them ready. Otherwise its message says what is
    missing."""
    role_statuses: Annotated[tuple[RoleStatus, ...], Field(json_schema_extra=MAP_BY_NAME)] = ()
    """One entry per role."""


class RoleBasedGroup(Model):
    """Roles of an inference service that are deployed together."""

    group: ClassVar[str] = "workloads.x-k8s.io"
    version: ClassVar[str] = "v1alpha2"
    kind: ClassVar[str] = "RoleBasedGroup"
    plural: ClassVar[str] = "rolebasedgroups"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: RoleBasedGroupSpec
    """The roles."""
    status: RoleBasedGroupStatus = RoleBasedGroupStatus()
    """State of the group."""

"""LoraAdapter: an adapter declared once and loaded into every engine pod that it selects.

Read by `placement`, which compares it with what the sidecars report and computes the status; `injection`
puts the adapters of a new pod into the pod. Only fields that this version honours are in the schema, so
that `kubectl apply` refuses what would otherwise be silently ignored.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from patio.api.protocol import AdapterName
from patio_operator.api.meta import Conditions, Int32, Int64, LabelMap, Model, ObjectMeta

FILE_SCHEME = "file://"

UNLOAD_FINALIZER = "patio.dev/unload"
"""Keeps a deleted LoraAdapter until the pods have unloaded it."""

MAX_INSTANCES = 100
"""How many pods status.instances lists; the counts are always whole."""

InstanceState = Literal["Pending", "Downloading", "Loading", "Loaded", "Unloading", "Failed", "Unknown"]
"""`patio.api.protocol.AdapterState`, and Unknown for a sidecar out of reach."""


class Source(Model):
    """Where the adapter's files come from."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "self.uri.startsWith('file:///') && size(self.uri) > 8",
                    "message": "uri must be file:///absolute/path: other sources (hf://, s3://, obs://, "
                    "pvc://) are not supported by this version of Patio",
                    "fieldPath": ".uri",
                },
                {
                    "rule": r"!self.uri.matches('(^|/)[.][.](/|$)')",
                    "message": "uri must not contain .. as a path segment",
                    "fieldPath": ".uri",
                },
            ]
        }
    )

    uri: Annotated[str, Field(min_length=1, max_length=4096)]
    """`file:///absolute/path` of the adapter's folder, taken literally (no percent-encoding). The engine
    and the sidecar must see the same files under that path: mount the volume in the engine, injection
    mounts it in the sidecar."""

    @property
    def path(self) -> str:
        """The absolute path that the engine loads from."""
        return self.uri.removeprefix(FILE_SCHEME)


class PodSelector(Model):
    """Selects pods in the LoraAdapter's namespace by label."""

    match_labels: Annotated[LabelMap, Field(min_length=1)]
    """Labels that a pod must all have. Only pods with an injected sidecar count."""


class RoleRef(Model):
    """The pods of one role of a RoleBasedGroup."""

    group: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the RoleBasedGroup, in the LoraAdapter's namespace."""
    role: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the role in that group."""


class LoraAdapterSpec(Model):
    """Which adapter, from where, on which pods."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "has(self.selector) != has(self.roleRef)",
                    "message": "exactly one of selector and roleRef must be given",
                }
            ]
        }
    )

    adapter_name: AdapterName | None = None
    """Name of the adapter in requests (`"model": "sql-expert"`). Default: metadata.name. Cannot be changed.
    """
    base_model: Annotated[str | None, Field(min_length=1, max_length=253)] = None
    """A guard: only pods whose engine serves this base model get the adapter; others of the selection are
    left out."""
    source: Source
    """Where the adapter's files come from. A change loads the new files on every pod."""
    selector: PodSelector | None = None
    """Selects the pods by label. Exactly one of selector and roleRef."""
    role_ref: RoleRef | None = None
    """Selects the pods of one role of a RoleBasedGroup. Exactly one of selector and roleRef."""


class Instance(Model):
    """The adapter on one pod."""

    pod: str
    """Name of the pod."""
    node: str = ""
    """Node that the pod runs on."""
    state: InstanceState
    """Where the adapter stands on this pod; Unknown when its sidecar cannot be reached."""
    reason: str = ""
    """Why it is in this state, in one CamelCase word."""
    message: str = ""
    """Why it is in this state; for faults, the engine's own words."""
    attempts: Annotated[Int32, Field(ge=0)] = 0
    """Load calls made for this revision on this pod."""
    since: datetime | None = None
    """When the state last changed."""


class LoraAdapterStatus(Model):
    """What is really loaded, read back from the sidecars."""

    observed_generation: Annotated[Int64 | None, Field(ge=0)] = None
    """The metadata.generation that this status was computed from."""
    adapter_name: str = ""
    """The name in requests that this status is about: spec.adapterName, or metadata.name."""
    desired_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods that should have the adapter."""
    ready_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods whose engine lists the adapter."""
    loading_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods that are on the way to it (Pending, Downloading, Loading or Unknown)."""
    failed_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods whose engine refused it."""
    conditions: Conditions = ()
    """Ready (every selected pod has it), Progressing (some are on the way), Degraded (some refused it)."""
    instances: Annotated[
        tuple[Instance, ...],
        Field(
            max_length=MAX_INSTANCES,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["pod"]},
        ),
    ] = ()
    """One entry per pod, at most 100 with the failed ones first; the counts above are always whole."""


class LoraAdapter(Model):
    """An adapter declared once and loaded into every engine pod that it selects."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.spec.adapterName) ? self.spec.adapterName : self.metadata.name) == "
                    "(has(oldSelf.spec.adapterName) ? oldSelf.spec.adapterName : oldSelf.metadata.name)",
                    "message": "adapterName is immutable: delete this LoraAdapter and create another one",
                    "fieldPath": ".spec.adapterName",
                }
            ]
        }
    )

    group: ClassVar[str] = "patio.dev"
    version: ClassVar[str] = "v1alpha1"
    kind: ClassVar[str] = "LoraAdapter"
    plural: ClassVar[str] = "loraadapters"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: LoraAdapterSpec
    """Which adapter, from where, on which pods."""
    status: LoraAdapterStatus = LoraAdapterStatus()
    """What is really loaded, read back from the sidecars."""

    @property
    def adapter_name(self) -> str:
        """The name in requests."""
        return self.spec.adapter_name or self.metadata.name

    @property
    def owner(self) -> str:
        """How sidecars know this LoraAdapter as the owner of what it loaded."""
        return f"{self.kind}/{self.metadata.namespace}/{self.metadata.name}"

"""LoraAdapter: an adapter declared once and loaded into every engine pod that it selects.

Read by `placement`, which compares it with what the sidecars report and computes the status; `injection`
puts the adapters of a new pod into the pod. What the schema and its rules let through, the sidecar's own words
(`patio_protocol.sources`) understand, so that `kubectl apply` says what is wrong and no pod has to.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field

from patio_api.meta import Conditions, Int32, Int64, LabelMap, Model, ObjectMeta
from patio_api.source_rules import MAX_URI_BYTES, RULES, is_in_clear
from patio_protocol.adapters import AdapterName
from patio_protocol.engines import TRIAL_PREFIX

FILE_SCHEME = "file://"

UNLOAD_FINALIZER = "patio.dev/unload"
"""Keeps a deleted LoraAdapter until the pods have unloaded it."""

MAX_INSTANCES = 100
"""How many pods status.instances lists; the counts are always whole."""

AddressingStyle = Literal["auto", "path", "virtual"]
"""`patio_protocol.sources.ADDRESSING_STYLES`."""

InstanceState = Literal["Pending", "Downloading", "Loading", "Loaded", "Unloading", "Failed", "Unknown"]
"""`patio_protocol.adapters.AdapterState`, and Unknown for a sidecar out of reach."""


class SecretRef(Model):
    """A Secret with credentials."""

    name: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of a Secret in the LoraAdapter's namespace. Its keys are named as the sidecar's variables:
    HF_AUTH_TOKEN for Hugging Face; ACCESS_KEY, SECRET_KEY and, where needed, SESSION_TOKEN, ENDPOINT, REGION and
    ADDRESSING_STYLE for S3 and OBS."""


class Source(Model):
    """Where the adapter's files come from."""

    model_config = ConfigDict(json_schema_extra={"x-kubernetes-validations": [*RULES]})

    uri: Annotated[str, Field(min_length=1, max_length=MAX_URI_BYTES)]
    """`hf://org/repo[@revision][/folder]` or just `org/repo` (Hugging Face), `s3://bucket/folder`,
    `obs://bucket/folder`, `pvc://folder` (a folder of a volume that the engine mounts) or
    `file:///absolute/path`. The path of file:// is taken literally (no percent-encoding), and engine and sidecar
    must see the same files under it: mount the volume in the engine, injection mounts it in the sidecar."""
    revision: Annotated[str | None, Field(min_length=1, max_length=255)] = None
    """Hugging Face only: branch, tag or commit. Default: main, or what the uri names after an @."""
    endpoint: Annotated[str | None, Field(min_length=1, max_length=1024)] = None
    """Base URL of the S3 or OBS service, or of a mirror of Hugging Face, like `https://s3.example.com`."""
    region: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    """S3 and OBS only: the bucket's region. Default: the region in the endpoint's name, or else the sidecar's
    setting."""
    addressing_style: AddressingStyle | None = None
    """S3 and OBS only: whether the bucket's name is in the `path` or before the host (`virtual`). Default: virtual
    for AWS and OBS, path for other stores."""
    allow_plain_http: Annotated[bool | None, Field(alias="allowPlainHTTP")] = None
    """Whether Patio may send the credentials to an endpoint without TLS (`http://`). Others on the network can read
    them there."""
    secret_ref: SecretRef | None = None
    """Credentials for the source. They reach the sidecars sealed, in signed calls, and are stored nowhere else."""

    @property
    def path(self) -> str:
        """The absolute path that the engine loads from."""
        return self.uri.removeprefix(FILE_SCHEME)

    @property
    def is_file(self) -> bool:
        """Whether the engine sees the files already: nothing is fetched."""
        return self.uri.startswith(FILE_SCHEME)

    @property
    def sends_credentials_in_clear(self) -> bool:
        """Whether the Secret's values would go to an endpoint without TLS, which is not allowed."""
        return self.secret_ref is not None and self.is_too_open(self.endpoint or "")

    def is_too_open(self, endpoint: str) -> bool:
        """Return whether credentials may not be sent to an endpoint."""
        return not self.allow_plain_http and is_in_clear(endpoint)

    @property
    def is_repository(self) -> bool:
        """Whether it is on a Hugging Face hub."""
        return self.uri.startswith("hf://") or "://" not in self.uri


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
    """Only the selected pods whose engine serves this base model get the adapter."""
    source: Source
    """Where the adapter's files come from. After a change all pods fetch the new files first, and then load them pod
    by pod."""
    selector: PodSelector | None = None
    """Selects the pods by label. Exactly one of selector and roleRef."""
    role_ref: RoleRef | None = None
    """Selects the pods of one role of a RoleBasedGroup. Exactly one of selector and roleRef."""
    replicas: Annotated[Int32 | None, Field(ge=0)] = None
    """How many of the matching pods have the adapter; Patio chooses them, and `kubectl scale` and a
    HorizontalPodAutoscaler can change it. Absent: every matching pod, and a new one is not Ready without it."""
    pinned: bool = False
    """When an engine is at capacity, a pinned adapter is never evicted, and may preempt one that is not pinned."""
    max_unavailable: Annotated[Int32, Field(ge=1)] = 1
    """When source changes: how many pods may be without the adapter, or between two sources, at the same time.
    """
    service: bool = False
    """Whether Patio makes a Service of the LoraAdapter's name that selects the pods that have the adapter."""


class Instance(Model):
    """The adapter on one pod."""

    pod: str
    """Name of the pod."""
    node: str = ""
    """Node that the pod runs on."""
    state: InstanceState
    """State of the adapter on this pod; Unknown when the pod's sidecar cannot be reached."""
    reason: str = ""
    """Reason of the state, in one CamelCase word."""
    message: str = ""
    """Reason of the state in a sentence; of an error, the engine's message."""
    attempts: Annotated[Int32, Field(ge=0)] = 0
    """Load calls made for this revision on this pod."""
    since: datetime | None = None
    """When the state last changed."""


class LoraAdapterStatus(Model):
    """What is loaded, read back from the sidecars."""

    observed_generation: Annotated[Int64 | None, Field(ge=0)] = None
    """The metadata.generation that this status was computed from."""
    adapter_name: str = ""
    """The name in requests that this status is about: spec.adapterName, or metadata.name."""
    desired_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods that should have the adapter."""
    ready_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods whose engine lists the adapter, with the weights of the current or the previous source."""
    updated_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods among them that have the weights of the current source."""
    loading_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods that do not have the adapter yet (Pending, Downloading or Loading)."""
    failed_replicas: Annotated[Int32, Field(ge=0)] = 0
    """Pods on which the adapter failed: the engine rejected it, or its files could not be fetched."""
    selector: str = ""
    """Label selector of the pods that have the adapter, for the scale subresource."""
    conditions: Conditions = ()
    """Ready: every pod that should have the adapter serves the current source. Progressing: a pod loads, unloads or
    fetches it. Degraded: a pod rejected it or cannot be reached, or something is left for you to correct."""
    instances: Annotated[
        tuple[Instance, ...],
        Field(
            max_length=MAX_INSTANCES,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["pod"]},
        ),
    ] = ()
    """One entry per pod, at most 100 with the failed ones first; the counts above are always whole."""


class LoraAdapter(Model):
    """A LoRA adapter that Patio keeps loaded on the engine pods that it selects."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {
                    "rule": "(has(self.spec.adapterName) ? self.spec.adapterName : self.metadata.name) == "
                    "(has(oldSelf.spec.adapterName) ? oldSelf.spec.adapterName : oldSelf.metadata.name)",
                    "message": "adapterName is immutable: delete this LoraAdapter and create another one",
                    "fieldPath": ".spec.adapterName",
                },
                {
                    "rule": "!(has(self.spec.adapterName) ? self.spec.adapterName : self.metadata.name)"
                    f".startsWith('{TRIAL_PREFIX}')",
                    "message": f"names that begin with {TRIAL_PREFIX} are reserved for sidecars: choose another name",
                    "fieldPath": ".spec.adapterName",
                },
                {
                    "rule": "!has(self.spec.service) || !self.spec.service || "
                    "self.metadata.name.matches(r'^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$')",
                    "message": "service: true makes a Service of this object's name, and a Service's name has at most "
                    "63 characters, letters, digits and -, and begins with a letter: choose another metadata.name",
                    "fieldPath": ".spec.service",
                },
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
    """What is loaded, read back from the sidecars."""

    @property
    def adapter_name(self) -> str:
        """The name in requests."""
        return self.spec.adapter_name or self.metadata.name

    @property
    def owner(self) -> str:
        """How sidecars know this LoraAdapter as the owner of what it loaded."""
        return f"{self.kind}/{self.metadata.namespace}/{self.metadata.name}"

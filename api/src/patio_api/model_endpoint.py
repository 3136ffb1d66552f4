"""ModelEndpoint: a whole model in one object, from its weights to the requests that wait for it.

Read by `modelendpoints`, which realises it as a RoleBasedGroup for each revision, scales it and computes its status,
and by the gateway, which serves it. What the schema and its rules can say of a field they say, so that `kubectl apply`
names what is wrong; `modelendpoints.validation` has the rest. `read` is how the operator takes one in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, ValidationError
from pydantic.config import JsonDict

from patio_api.bounded_json import size_of
from patio_api.durations import Duration
from patio_api.loraadapter import AddressingStyle, PodSelector, SecretRef
from patio_api.meta import Conditions, Int32, Int64, Model, ObjectMeta, Opaque
from patio_api.rolebasedgroup import EngineRuntime
from patio_api.schema import OBJECT_DEFAULT
from patio_api.source_rules import FORMATS, IN_CLEAR, IN_THE_POD, MAX_URI_BYTES, NOT_IN_CLEAR

RoleType = Literal["server", "prefill", "decode"]
StartPhase = Literal["Asleep", "Scheduling", "Pulling", "Downloading", "Loading", "Failing"]
"""How far a worker has come, in the words that the gateway's clients read (`patio_gateway.snapshot.StartPhase`)."""

SERVICE_NAME = r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$"
"""What the name of a Service looks like (RFC 1035)."""
MAX_WORKERS = 1_000
"""Workers that an endpoint can have."""
MAX_ALIASES = 16
MAX_MODELS = 500
"""Names that status.models lists."""
LARGEST = 10_000
"""Values that an object may have. One with two roles and a hundred variables has some six hundred."""
DEEPEST = 64
"""Levels that an object may have. Fields of pods are some fifteen levels deep."""

ModelName = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._/-]*[A-Za-z0-9])?$")]
"""The name of a model in requests: as an adapter's, and with `/`, since many clients ask for `Qwen/Qwen3-8B`."""


def _rule(rule: str, message: str, path: str = "") -> JsonDict:
    written: JsonDict = {"rule": rule, "message": message}
    return {**written, "fieldPath": path} if path else written


def _rules(*rules: JsonDict) -> ConfigDict:
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [*rules]})


def _between(field: str, shortest: str, longest: str) -> JsonDict:
    """Return the rule that keeps a length of time between two others."""
    value = f"duration(self.{field})"
    return _rule(
        f"!has(self.{field}) || ({value} >= duration('{shortest}') && {value} <= duration('{longest}'))",
        f"{field} must be between {shortest} and {longest}",
        f".{field}",
    )


_DEFAULTED: JsonDict = {OBJECT_DEFAULT: {}}
"""Of a part that may be left out: the API server fills in the defaults of its fields."""
_SET: JsonDict = {"x-kubernetes-list-type": "set"}


class ServedModel(Model):
    """Which model, and under which names."""

    model_config = _rules(
        *(rule.to_api() for rule in FORMATS if rule.field == "uri"),
        _rule(
            f"size(bytes(self.uri)) <= {MAX_URI_BYTES}", f"uri must not be longer than {MAX_URI_BYTES} bytes", ".uri"
        ),
        _rule(
            "!self.uri.matches(r'^hf://[^/]+/[^/]+/+[^/]')",
            "an engine takes a whole repository of Hugging Face: write hf://org/repo[@revision] without a folder",
            ".uri",
        ),
        _rule(
            "!has(self.name) || !has(self.aliases) || !(self.name in self.aliases)",
            "aliases has the name itself: remove it there",
            ".aliases",
        ),
    )

    uri: Annotated[str, Field(min_length=1, max_length=MAX_URI_BYTES)]
    """`hf://org/repo[@revision]` or just `org/repo` (Hugging Face; the engine downloads it), `s3://bucket/folder` or
    `obs://bucket/folder` (the sidecar downloads it before the engine starts), `pvc://folder` (a folder of the volume
    in cache.persistentVolumeClaim) or `file:///absolute/path` (a folder of the image, or of a volume that a role's
    template mounts). Cannot lead out of its folder."""
    name: ModelName | None = None
    """Name of the model in requests (`"model": "qwen3-8b"`). Default: metadata.name. If two ModelEndpoints have one
    name, the older one serves it."""
    aliases: Annotated[tuple[ModelName, ...], Field(max_length=MAX_ALIASES, json_schema_extra=_SET)] = ()
    """Other names under which requests find the model, each only once."""


class ModelCache(Model):
    """Where workers keep the model's files over restarts: exactly one of the two."""

    model_config = _rules(
        _rule(
            "has(self.hostPath) != has(self.persistentVolumeClaim)",
            "exactly one of hostPath and persistentVolumeClaim must be given",
        ),
        _rule(
            r"!has(self.hostPath) || !self.hostPath.matches(r'(^|/)[.][.]?(/|$)')",
            "hostPath must not have . or .. as a part of its path",
            ".hostPath",
        ),
    )

    host_path: Annotated[str | None, Field(max_length=1024, pattern=r"^/[^/].*$")] = None
    """Absolute path of a folder on each node, which is made if it does not exist. Pod Security Standards other than
    privileged forbid such volumes."""
    persistent_volume_claim: Annotated[str | None, Field(min_length=1, max_length=253)] = None
    """Name of a PersistentVolumeClaim in the same namespace. Several workers need access mode ReadWriteMany, or
    ReadOnlyMany for `pvc://` models."""


class ModelSource(Model):
    """How the model's files are fetched: credentials and where the store is."""

    model_config = _rules(
        *(rule.to_api() for rule in FORMATS if rule.field in ("endpoint", "region")),
        _rule(
            "!has(self.secretRef) || !has(self.endpoint) || (has(self.allowPlainHTTP) && self.allowPlainHTTP) || "
            f"!self.endpoint.matches(r'{IN_CLEAR}') || self.endpoint.matches(r'{IN_THE_POD}')",
            NOT_IN_CLEAR,
            ".endpoint",
        ),
    )

    secret_ref: SecretRef | None = None
    """Credentials for the source. The engine's container reads them from the Secret; Patio does not."""
    endpoint: Annotated[str | None, Field(min_length=1, max_length=1024)] = None
    """Base URL of the S3 or OBS service, or of a mirror of Hugging Face, like `https://s3.example.com`."""
    region: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    """S3 and OBS only: the bucket's region."""
    addressing_style: AddressingStyle | None = None
    """S3 and OBS only: whether the bucket's name is in the `path` or before the host (`virtual`)."""
    allow_plain_http: Annotated[bool | None, Field(alias="allowPlainHTTP")] = None
    """Whether the credentials may be sent to an endpoint without TLS (`http://`). Others on the network can read them
    there."""


class EndpointRole(Model):
    """Pods that do the same work in a worker."""

    model_config = _rules(
        _rule(
            "self.type != 'server' || !has(self.perWorker) || self.perWorker == 1",
            "perWorker is for prefill and decode: a server is a worker by itself, set workers.replicas",
            ".perWorker",
        ),
    )

    type: RoleType
    """server: takes requests and answers them. prefill and decode: share each request (SGLang only); Patio makes a
    router before them and registers them with it."""
    image: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    """Image of the engine. Default: the operator's image for the engine (chart value)."""
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Flags of the engine, after those that Patio gives: `--tensor-parallel-size=2`. Model, served names and port are
    Patio's."""
    env: Annotated[tuple[Opaque, ...], Field(max_length=256)] = ()
    """Variables of the engine's container (core/v1 EnvVar)."""
    env_from: Annotated[tuple[Opaque, ...], Field(max_length=32)] = ()
    """Sources of variables of the engine's container (core/v1 EnvFromSource)."""
    resources: Opaque = Field(default_factory=dict)
    """Resources of the engine's container (core/v1 ResourceRequirements). An engine on a GPU asks for it here:
    `{limits: {nvidia.com/gpu: 1}}`."""
    nodes_per_worker: Annotated[Int32, Field(ge=1, le=64)] = 1
    """Pods, each on a node of its own GPUs, that are one engine together: a leader and its workers."""
    per_worker: Annotated[Int32, Field(ge=1, le=16)] = 1
    """prefill and decode only: instances of this role in one worker. With prefill 1 and decode 3, two workers are two
    prefill and six decode instances."""
    template: Opaque = Field(default_factory=dict)
    """A strategic merge patch on the pod template that Patio makes, for what has no field here: nodeSelector,
    tolerations, volumes, securityContext. The engine's container is named `engine`."""


class EndpointRouter(Model):
    """The router before prefill and decode roles."""

    image: Annotated[str, Field(min_length=1, max_length=512)]
    """Image that has Python and sglang-router 0.3 or newer."""
    args: Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(max_length=256)] = ()
    """Flags of the router, after those that Patio gives."""
    resources: Opaque = Field(default_factory=dict)
    """Resources of the router's container (core/v1 ResourceRequirements)."""


class EndpointAdapters(Model):
    """Which LoraAdapters are served with the model."""

    selector: PodSelector
    """Selects LoraAdapters in the same namespace by their labels: each is a model name in requests. Such a LoraAdapter
    selects the workers by the label `patio.dev/endpoint: NAME`."""
    max_loaded: Annotated[Int32, Field(ge=1, le=1024)] = 8
    """Adapters that an engine can use at once (`--max-loras`, SGLang's `--max-loras-per-batch`)."""
    max_rank: Annotated[Int32, Field(ge=1, le=512)] = 64
    """The highest rank of an adapter (`--max-lora-rank`)."""


class Workers(Model):
    """How many workers there are."""

    model_config = _rules(
        # The API server tries the rule on the default of `workers` too, before it fills in what that leaves out.
        _rule("!has(self.min) || !has(self.max) || self.min <= self.max", "min must not be greater than max", ".min"),
        _between("scaleToZeroAfter", "10s", "168h"),
        _between("loadingGrace", "1m", "24h"),
    )

    min: Annotated[Int32, Field(ge=0, le=MAX_WORKERS)] = 0
    """The fewest workers. With 0 no worker runs until a request comes, and none again scaleToZeroAfter the last one."""
    max: Annotated[Int32, Field(ge=0, le=MAX_WORKERS)] = 1
    """The most workers. 0 switches the endpoint off."""
    replicas: Annotated[Int32 | None, Field(ge=0, le=MAX_WORKERS)] = None
    """The workers that there should be now. Written by Patio's autoscaler, a HorizontalPodAutoscaler, KEDA or `kubectl
    scale`; leave it out of a manifest. What is less than min counts as min, what is more than max as max."""
    concurrency: Annotated[Int32, Field(ge=1, le=100_000)] = 32
    """Requests that one worker answers at once: Patio's autoscaler wants so many for each."""
    scale_to_zero_after: Duration = "10m"
    """How long no request comes before the last worker ends, with min 0. Like `10m`, `1h30m`, `90s`."""
    loading_grace: Duration = "30m"
    """How long a worker may take from its start until it answers. It is not stopped before; after that it counts as
    failed, and an update stops."""


class EndpointQueue(Model):
    """Requests that wait for a worker, in the gateway."""

    model_config = _rules(_between("timeout", "1s", "1h"))

    max: Annotated[Int32, Field(ge=0, le=100_000)] = 1000
    """Requests that each replica of the gateway holds; the next one is answered 429."""
    timeout: Duration = "5m"
    """How long a request is held before it is answered 503."""


class EndpointRouting(Model):
    """Which worker gets a request."""

    prefix_aware: bool = True
    """Whether requests with the same beginning go to the same worker, which has it in its cache."""
    session_header: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[a-z0-9!#$%&'*+.^_`|~-]+$")] = (
        "x-session-id"
    )
    """Header, in lower case, whose value sends a session's requests to one worker. It takes precedence over the
    beginning of the request."""
    load_bound: Annotated[float, Field(ge=1.0, le=10.0)] = 1.25
    """The most requests that a worker has by affinity, as a multiple of the mean. Above it they go to another one."""
    fallbacks: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=63)], ...], Field(max_length=8, json_schema_extra=_SET)
    ] = ()
    """Names of other ModelEndpoints in the same namespace that answer, in this order, when this one has no worker and
    cannot get one."""


class Callback(Model):
    """Where the results of queued requests are sent."""

    url: Annotated[str, Field(max_length=2048, pattern=r"^https?://[^\s]+$")]
    """Receives a POST with each result."""
    secret_ref: SecretRef | None = None
    """Secret in the same namespace whose keys USERNAME and PASSWORD, or TOKEN, authorise the POST."""


class QueuedWork(Model):
    """How queued requests are handled."""

    model_config = _rules(
        _between("visibility", "10s", "12h"),
        _between("expires", "1m", "720h"),
    )

    visibility: Duration = "60s"
    """How long after its worker was last heard of a request is given to another worker."""
    expires: Duration = "24h"
    """How long a request and its result are kept."""
    max_attempts: Annotated[Int32, Field(ge=1, le=100)] = 3
    """How often a request is tried before it has failed."""
    callback: Callback | None = None
    """Where results are sent. Absent: clients ask for them."""


class EndpointAccess(Model):
    """Who may use the endpoint."""

    public: bool = False
    """Whether it answers requests without a key."""
    owner: Annotated[str, Field(max_length=253)] = ""
    """Team or person that it belongs to. Shown, and in metrics."""


class ModelEndpointSpec(Model):
    """Which model, by which workers, for whom."""

    model_config = _rules(
        _rule(
            "!has(self.roles) || self.roles.exists(r, r.type == 'server') || "
            "(self.roles.exists(r, r.type == 'prefill') && self.roles.exists(r, r.type == 'decode'))",
            "roles needs one of type server, or one of type prefill and one of type decode: prefill and decode share "
            "each request",
            ".roles",
        ),
        _rule(
            "!has(self.roles) || !self.roles.exists(r, r.type == 'server') || self.roles.size() == 1",
            "a server role answers by itself: remove the other roles, or use prefill and decode without server",
            ".roles",
        ),
        _rule(
            "!has(self.roles) || !self.roles.exists(r, r.type == 'prefill') || "
            "(has(self.engine) && self.engine == 'sglang')",
            "prefill and decode roles are made for engine: sglang only",
            ".engine",
        ),
        _rule(
            "!has(self.roles) || !self.roles.exists(r, r.type == 'prefill') || has(self.router)",
            "prefill and decode roles need a router: give router.image",
            ".router",
        ),
        _rule(
            "!has(self.router) || (has(self.roles) && self.roles.exists(r, r.type == 'prefill'))",
            "router is for prefill and decode roles: remove it",
            ".router",
        ),
        _rule(
            "!has(self.roles) || !self.roles.exists(r, r.type == 'prefill') || !has(self.engineRuntimes) || "
            "self.engineRuntimes.size() > 0",
            "prefill and decode workers are registered with their router by the sidecar: name its profile in "
            "engineRuntimes",
            ".engineRuntimes",
        ),
        _rule(
            "!self.model.uri.matches(r'^pvc://') || (has(self.cache) && has(self.cache.persistentVolumeClaim))",
            "a pvc:// model is a folder of a volume: name its PersistentVolumeClaim in cache.persistentVolumeClaim",
            ".cache",
        ),
        _rule(
            "!self.model.uri.matches(r'^(s3|obs)://') || !has(self.engineRuntimes) || self.engineRuntimes.size() > 0",
            "the sidecar downloads s3:// and obs:// models: name its profile in engineRuntimes",
            ".engineRuntimes",
        ),
        _rule(
            "!has(self.source) || !self.model.uri.matches(r'^(file|pvc)://')",
            "source is for hf://, s3:// and obs:// models: files of file:// and pvc:// are not fetched",
            ".source",
        ),
        _rule(
            "!has(self.autoscaling) || self.autoscaling != 'external' || !has(self.workers) || self.workers.min >= 1 "
            "|| has(self.workers.replicas)",
            "with autoscaling: external nothing of Patio starts the first worker: set workers.min to 1 for a "
            "HorizontalPodAutoscaler, or give workers.replicas for KEDA, which scales from 0 itself",
            ".workers",
        ),
        _rule(
            "!has(self.adapters) || !has(self.engineRuntimes) || self.engineRuntimes.size() > 0",
            "the sidecar loads adapters: name its profile in engineRuntimes",
            ".engineRuntimes",
        ),
    )

    model: ServedModel
    """Which model, and under which names."""
    engine: Literal["vllm", "sglang"] = "vllm"
    """The engine that serves it."""
    engine_runtimes: Annotated[tuple[EngineRuntime, ...] | None, Field(max_length=8)] = None
    """Profiles to inject into the workers' pods. Default: the profile `patio`, which has the sidecar. An empty list:
    none; then there are no adapters, no drain and no metrics by Patio."""
    cache: ModelCache | None = None
    """Where the model's files are kept, at /models in the engine's container. Absent: in the pod, while it lives."""
    source: ModelSource | None = None
    """How the model's files are fetched. Absent: without credentials, from the usual address."""
    roles: Annotated[
        tuple[EndpointRole, ...] | None,
        Field(
            min_length=1,
            max_length=3,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = None
    """The pods of a worker: one role of type server, or prefill and decode. Absent: one server."""
    router: EndpointRouter | None = None
    """The router before prefill and decode roles."""
    adapters: EndpointAdapters | None = None
    """LoraAdapters that are served with the model. Absent: the engine starts without LoRA."""
    kind: Literal["sync", "async"] = "sync"
    """sync: requests are answered at once. async: requests can be queued as well."""
    workers: Annotated[Workers, Field(json_schema_extra=_DEFAULTED)] = Workers()
    """How many workers there are."""
    autoscaling: Literal["patio", "external"] = "patio"
    """Who decides on workers.replicas: Patio, or a HorizontalPodAutoscaler or KEDA on the scale subresource."""
    queue: Annotated[EndpointQueue, Field(json_schema_extra=_DEFAULTED)] = EndpointQueue()
    """Requests that wait for a worker."""
    routing: Annotated[EndpointRouting, Field(json_schema_extra=_DEFAULTED)] = EndpointRouting()
    """Which worker gets a request."""
    queued_work: Annotated[QueuedWork | None, Field(alias="async")] = None
    """How queued requests are handled (kind: async). Absent: the defaults."""
    access: Annotated[EndpointAccess, Field(json_schema_extra=_DEFAULTED)] = EndpointAccess()
    """Who may use the endpoint."""


class WorkerCounts(Model):
    """Workers, counted."""

    desired: Annotated[Int32, Field(ge=0)] = 0
    """Workers that there should be."""
    ready: Annotated[Int32, Field(ge=0)] = 0
    """Workers, of any revision, that answer requests."""
    updated: Annotated[Int32, Field(ge=0)] = 0
    """Workers among them of the revision that the spec asks for."""
    loading: Annotated[Int32, Field(ge=0)] = 0
    """Workers that start: they are scheduled, pull their image, download or load the model."""
    failed: Annotated[Int32, Field(ge=0)] = 0
    """Workers that failed to start."""


class Progress(Model):
    """How far the start of the next worker has come."""

    phase: StartPhase
    """Asleep: no worker runs, and the next request starts one. Scheduling: it has no node yet. Pulling: its image.
    Downloading: the model. Loading: the engine loads the model. Failing: it fails to start."""
    percent: Annotated[Int32 | None, Field(ge=0, le=100)] = None
    """Of the download, where that is known."""
    pod: str = ""
    """The worker's pod that is waited for."""
    message: str = ""
    """The same in a sentence; of an error, the words of Kubernetes or the engine."""


class ScalingDecision(Model):
    """A change of the number of workers, and why."""

    at: datetime
    """When it was decided."""
    from_: Annotated[Int32, Field(alias="from", ge=0)]
    """Workers before."""
    to: Annotated[Int32, Field(ge=0)]
    """Workers after."""
    reason: Annotated[str, Field(max_length=1024)] = ""
    """Why, in a sentence."""


class ModelEndpointStatus(Model):
    """What is there, read back from pods and sidecars."""

    observed_generation: Annotated[Int64 | None, Field(ge=0)] = None
    """The metadata.generation that this status was computed from."""
    revision: str = ""
    """Hash of what the spec says of the workers' pods; scaling does not change it."""
    model_name: str = ""
    """The model's name in requests: spec.model.name, or metadata.name."""
    models: Annotated[tuple[str, ...], Field(max_length=MAX_MODELS)] = ()
    """Names that requests can use: the model's, its aliases, then its adapters; at most 500."""
    workers: WorkerCounts = WorkerCounts()
    """Workers, counted."""
    replicas: Annotated[Int32, Field(ge=0)] = 0
    """Workers that there are, ready or not, for the scale subresource."""
    selector: str = ""
    """Label selector of the pods that take requests, for the scale subresource."""
    queued: Annotated[Int32, Field(ge=0)] = 0
    """Requests that wait for a worker, in all replicas of the gateway."""
    in_flight: Annotated[Int32, Field(ge=0)] = 0
    """Requests that workers are answering."""
    last_activity: datetime | None = None
    """When a request last came or ended."""
    url: str = ""
    """Base URL for clients of OpenAI's API: the gateway's, or the Service's where there is no gateway."""
    progress: Progress | None = None
    """How far the start of the next worker has come. Absent: a worker answers, and none starts."""
    last_decision: ScalingDecision | None = None
    """The last change of the number of workers."""
    conditions: Conditions = ()
    """Ready: a worker of the current revision answers requests. Progressing: workers start, end or are updated.
    ScaledToZero: there is no worker, and there should be none. Degraded: a worker fails to start, or something is
    left for you to correct."""


class ModelEndpoint(Model):
    """A model that Patio serves: its workers, how many there are, and who may use it."""

    model_config = _rules(
        _rule(
            f"self.metadata.name.matches(r'{SERVICE_NAME}')",
            "a Service gets this object's name, which must have at most 63 characters, lower-case letters, digits and "
            "-, and begin with a letter: choose another metadata.name",
        ),
        _rule(
            "has(self.spec.model.name) || !has(self.spec.model.aliases) || "
            "!(self.metadata.name in self.spec.model.aliases)",
            "aliases has the model's name, which is metadata.name: remove it there",
            ".spec.model.aliases",
        ),
        _rule(
            "!has(self.spec.routing) || !has(self.spec.routing.fallbacks) || "
            "!(self.metadata.name in self.spec.routing.fallbacks)",
            "an endpoint cannot be its own fallback: remove it from fallbacks",
            ".spec.routing.fallbacks",
        ),
    )

    group: ClassVar[str] = "patio.dev"
    version: ClassVar[str] = "v1alpha1"
    kind: ClassVar[str] = "ModelEndpoint"
    plural: ClassVar[str] = "modelendpoints"

    metadata: ObjectMeta
    """Standard object metadata."""
    spec: ModelEndpointSpec
    """Which model, by which workers, for whom."""
    status: ModelEndpointStatus = ModelEndpointStatus()
    """What is there, read back from pods and sidecars."""

    @property
    def key(self) -> str:
        """`namespace/name`, by which the gateway names it."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def model_name(self) -> str:
        """The model's name in requests."""
        return self.spec.model.name or self.metadata.name

    @property
    def names(self) -> tuple[str, ...]:
        """All names of the model in requests, its own first."""
        return tuple(dict.fromkeys((self.model_name, *self.spec.model.aliases)))

    @property
    def roles(self) -> tuple[EndpointRole, ...]:
        """The roles of a worker; one server if none is given."""
        return self.spec.roles or (EndpointRole(type="server"),)

    @property
    def is_split(self) -> bool:
        """Whether prefill and decode are apart."""
        return any(role.type == "prefill" for role in self.roles)

    @property
    def runtimes(self) -> tuple[EngineRuntime, ...]:
        """The profiles of the workers' pods."""
        runtimes = self.spec.engine_runtimes
        return (EngineRuntime(profile_name=DEFAULT_PROFILE),) if runtimes is None else runtimes

    @property
    def desired_workers(self) -> int:
        """Return the workers that there should be: what scaling asked for, between min and max."""
        workers = self.spec.workers
        return min(max(workers.replicas or 0, workers.min), workers.max)


DEFAULT_PROFILE = "patio"
"""Name of the chart's profile."""


@dataclass(frozen=True)
class UnreadableEndpoint:
    """An object of the API server that is no ModelEndpoint this version can read."""

    message: str
    """What is wrong with which field, in a sentence."""


def read(body: Mapping[str, Any]) -> ModelEndpoint | UnreadableEndpoint:
    """Return a ModelEndpoint, or the first thing that is wrong with it.

    The API server has checked objects against the CRD that was there when they were written: an older one, or none of
    ours. Whatever the object is, this ends, and raises nothing.
    """
    size = size_of({"spec": body.get("spec")}, DEEPEST)
    if size is None:
        return UnreadableEndpoint("spec: a field is nested too deeply, or is not valid text: remove it")
    if size > LARGEST:
        return UnreadableEndpoint(f"spec: it has {size} values, more than {LARGEST}: shorten its lists")
    try:
        return ModelEndpoint.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        path = ".".join(str(step) for step in first["loc"])
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return UnreadableEndpoint(f"{path}: {first['msg'][:300]}{more}")

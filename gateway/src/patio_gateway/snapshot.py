"""What the gateway knows at one moment: models, their workers, the clients with a key.

`sources` make one, from Kubernetes or from URLs that a person gave; `control` turns it into Envoy's configuration and
into what the front reads. Values only: nothing here knows where they came from, and nothing changes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

Address = tuple[str, int]
"""Host and port; the host is an IP address, an IPv6 one without brackets."""


class StartPhase(StrEnum):
    """How far the start of a model without a ready worker has come, in the words that clients are told."""

    ASLEEP = "Asleep"
    SCHEDULING = "Scheduling"
    PULLING = "Pulling"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    FAILING = "Failing"


@dataclass(frozen=True)
class Start:
    """The start of a model's next worker."""

    phase: StartPhase = StartPhase.ASLEEP
    percent: int | None = None
    """Of the download, from 0 to 100."""
    message: str = ""
    """What the operator says of it: one sentence, without secrets."""


@dataclass(frozen=True)
class Decision:
    """A change of the number of a ModelEndpoint's workers."""

    at: float
    """Unix time."""
    before: int
    after: int
    reason: str
    """A sentence."""


@dataclass(frozen=True)
class Worker:
    """A pod, or a group of pods that serves as one, that may get requests: Ready and not draining."""

    name: str
    address: Address
    adapters: frozenset[str] = frozenset()
    """Names of the adapters that its engine has verifiably loaded."""


@dataclass(frozen=True)
class Routing:
    """Which of several workers gets a request."""

    prefix_aware: bool = True
    session_header: str = "x-session-id"
    load_bound: float = 1.25
    """The most requests in flight that one worker gets by affinity, as a multiple of the mean."""
    fallbacks: tuple[str, ...] = ()
    """Names of models that answer when this one has no worker and cannot get one."""


@dataclass(frozen=True)
class QueueLimits:
    """Requests that wait for a model's first worker."""

    max: int = 1000
    timeout: float = 300.0
    """Seconds that one of them waits before it is answered 503."""
    per_worker: int = 32
    """Requests that a worker takes at a time: so many go on when it is ready, and as many again a little later."""


@dataclass(frozen=True)
class Model:
    """A ModelEndpoint."""

    endpoint: str
    """`namespace/name`, unique."""
    names: tuple[str, ...]
    """The `model` of a request's body: the model's name first, then its aliases. Unique over all models."""
    engine: str = "vllm"
    adapters: tuple[str, ...] = ()
    """Names of all adapters that are declared for it, loaded anywhere or not."""
    workers: tuple[Worker, ...] = ()
    start: Start = Start()
    can_wake: bool = True
    """Whether a request brings a worker, where there is none: False where the most workers are 0."""
    routing: Routing = Routing()
    queue: QueueLimits = QueueLimits()
    public: bool = False
    """Whether it answers without a key."""
    owner: str = ""
    created: int = 0
    """Unix time, for `/v1/models`."""
    last_decision: Decision | None = None
    """The last change of its number of workers, for people."""


@dataclass(frozen=True)
class Client:
    """Who has a key."""

    name: str
    """For logs, metrics and fairness; never the key."""
    key: str = field(repr=False)
    endpoints: tuple[str, ...] = ("*",)
    """Which models it may use, by `namespace/name`; `*` matches within one part, alone it matches every endpoint."""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    priority: int = 0
    """Who waits in a queue goes after those with a greater number."""


@dataclass(frozen=True)
class Snapshot:
    """Everything at one moment."""

    models: tuple[Model, ...] = ()
    clients: tuple[Client, ...] = ()
    closed: bool = True
    """Whether a request needs a key, but for models that are public."""

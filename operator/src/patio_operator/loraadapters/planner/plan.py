"""A plan: actions with their reasons, and the state of each LoraAdapter on each pod. Values only.

`planner.plan` makes plans. The feature's `reconciler`, `dispatcher` and `label_writer` carry the actions out, `status`
turns the placements into what users read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from patio_api.loraadapter import LoraAdapter
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import LoadRequest, UnloadRequest

SHOWN = 3
"""How many pods a message names."""


@dataclass(frozen=True)
class AddFinalizer:
    """Put our finalizer on a LoraAdapter, before anything is loaded for it."""

    adapter: LoraAdapter


@dataclass(frozen=True)
class RemoveFinalizer:
    """Take our finalizer off a LoraAdapter: nothing is left of it, or its time is up."""

    adapter: LoraAdapter
    left_on: tuple[str, ...] = ()
    """Pods that did not unload it within the bound and may still have it."""


@dataclass(frozen=True)
class Load:
    """Tell a pod's sidecar to have an adapter, or with `request.prepare` to have its files at hand."""

    pod: EnginePod
    adapter: str
    """Name of the LoraAdapter object."""
    request: LoadRequest
    """Without the values of a Secret."""
    reason: str
    secret: str | None = None
    """Name of the Secret whose values the order needs (`credentials.given`)."""


@dataclass(frozen=True)
class Unload:
    """Order a pod's sidecar to unload an adapter that one of our LoraAdapters had it load."""

    pod: EnginePod
    request: UnloadRequest
    reason: str


@dataclass(frozen=True)
class SetServingLabels:
    """Make a pod's labels show exactly these adapters (`api.labels.serving_labels_patch`)."""

    pod: EnginePod
    names: frozenset[str]
    """Names in requests."""
    reason: str
    owners: frozenset[tuple[str, str]] = frozenset()
    """Whose they are (`api.labels.owners_of`)."""


Action = AddFinalizer | RemoveFinalizer | Load | Unload | SetServingLabels

Order = LoadRequest | UnloadRequest


@dataclass(frozen=True)
class Rejection:
    """A sidecar's answer to an order it did not take; the very same order is not repeated before `until`.

    The pod's status shows it for as long as it is part of the snapshot.
    """

    message: str
    retryable: bool
    until: datetime
    reason: str = "SidecarRejected"
    """Another one where the order was not even sent: no sidecar proved that the credentials are for it."""


class InstanceState(StrEnum):
    """The state of an adapter on one pod: the sidecar's word, or Unknown when it gives none."""

    PENDING = "Pending"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    LOADED = "Loaded"
    UNLOADING = "Unloading"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


class Instance(NamedTuple):
    """How an adapter stands on one pod. There are as many as there are placements."""

    pod: EnginePod
    state: InstanceState
    reason: str
    message: str = ""
    attempts: int = 0
    updated: bool = True
    """Whether the state is that of the source as it is declared now; False: of the one before."""


@dataclass(frozen=True)
class Condition:
    """Why a LoraAdapter is not, and for now will not be, as declared: about it as a whole, not one pod."""

    reason: str
    message: str


@dataclass(frozen=True)
class Placement:
    """How one LoraAdapter stands."""

    instances: tuple[Instance, ...] = ()
    """On each pod that has it, should have it, or is unloading it."""
    desired_replicas: int = 0
    """Pods that should have it: those that match, or spec.replicas."""
    condition: Condition | None = None
    """Why some of them have no pod, or why a rollout does not go on."""


@dataclass(frozen=True)
class Plan:
    """What to do now, and how each LoraAdapter that stays stands."""

    actions: tuple[Action, ...]
    placements: Mapping[str, Placement]
    """By the LoraAdapter's object name."""
    requeue_at: datetime | None = None
    """When to plan again though nothing changed."""


def names(pods: Sequence[str]) -> str:
    """Return the first few of a list of pods, and how many more there are."""
    shown = ", ".join(pods[:SHOWN])
    return shown if len(pods) <= SHOWN else f"{shown} and {len(pods) - SHOWN} more"


def count(number: int, what: str = "pod") -> str:
    """Return a number of pods, or of something else."""
    return f"1 {what}" if number == 1 else f"{number} {what}s"

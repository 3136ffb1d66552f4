"""Candidates: the pods that one LoraAdapter selects, each with what its sidecar reports of that adapter. Pure.

The first step of `planner`: everything after it (`scheduling`, `rollout`, `serving_labels`) speaks of candidates and
never reads reports by itself. What a silent sidecar reported last is used to know which pods had the adapter; it is
never taken for what is. What concerns one pod (rejected orders, label times) is put on it here, from the snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

from patio_api.loraadapter import LoraAdapter
from patio_kube.runtime.incremental import Incremental, in_chunks
from patio_operator.loraadapters.planner.credentials import Credentials
from patio_operator.loraadapters.planner.observation import UNOBSERVED, Observation, Report
from patio_operator.loraadapters.planner.plan import Condition, Order, Rejection
from patio_operator.loraadapters.planner.selection import OWNER_PREFIX, PodIndex, load_request, oldest_first
from patio_operator.loraadapters.planner.snapshot import Snapshot
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import AdapterState, LoadRequest

UNREACHABLE_BOUND = timedelta(seconds=30)
"""How long a pod whose sidecar is silent keeps its place before another pod is given the adapter."""
DRAIN = timedelta(seconds=1)
"""How long after a pod lost its label a request may still be on its way there."""


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A pod that is not leaving, with what its sidecar says, or said last, by adapter name."""

    pod: EnginePod
    sidecar: Observation
    reports: Mapping[str, Report]
    silent: bool
    """Whether its sidecar does not answer now."""
    unasked: bool
    """Whether it may well have adapters and was not polled yet: what it has decides where others go."""
    rejections: Mapping[Order, Rejection]
    """Orders that its sidecar rejected."""
    unlabelled_at: Mapping[str, datetime]
    """When the label of an adapter was last removed, by the adapter's name."""
    now: datetime
    """Of the snapshot."""

    def rejects(self, order: Order) -> bool:
        """Tell whether an order was rejected and must not be sent again yet."""
        rejection = self.rejections.get(order)
        return rejection is not None and rejection.until > self.now

    def drained_at(self, name: str) -> datetime | None:
        """Return when requests to an adapter whose label was removed are over; None: they are."""
        removed = self.unlabelled_at.get(name)
        return None if removed is None or removed + DRAIN <= self.now else removed + DRAIN

    @property
    def lost(self) -> bool:
        """Whether its sidecar has been silent for too long to wait for it."""
        since = self.sidecar.unreachable_since
        return self.silent and since is not None and self.now - since >= UNREACHABLE_BOUND


@dataclass(frozen=True)
class Desired:
    """What the orders for one LoraAdapter say."""

    adapter: LoraAdapter
    load: LoadRequest
    prepare: LoadRequest | None
    """None: the files are where they are used."""
    secret: str | None = None
    missing: Condition | None = None
    """Why no order can be given now: the Secret is not as it should be."""

    @property
    def name(self) -> str:
        """The adapter's name in requests."""
        return self.load.lora_name

    @property
    def key(self) -> str:
        """The LoraAdapter's object name."""
        return self.adapter.metadata.name

    @cached_property
    def owner(self) -> str:
        """How sidecars know the LoraAdapter."""
        return self.adapter.owner


class Candidate(NamedTuple):
    """One pod, as one LoraAdapter that selects it sees it. There are as many as there are placements."""

    observed: ObservedPod
    pod: EnginePod
    name: str
    """The adapter's, in requests."""
    report: Report | None
    """On the adapter's name, whatever its owner."""
    owned: bool
    """This LoraAdapter had it loaded there, or is having it."""
    updated: bool
    """Mine, and ordered from the source as it is declared now."""
    unloading: bool
    """Whether the pod is unloading it."""
    answers: bool
    """Whether the engine is known to answer under the name from what this LoraAdapter ordered, new or old."""
    holder: LoraAdapter | None = None
    """The older LoraAdapter that wants the name on this pod; None: there is no older one."""

    @property
    def loaded(self) -> bool:
        """Whether the engine is known to answer from the source as it is declared now."""
        return (
            self.updated
            and not self.observed.silent
            and self.report is not None
            and (self.report.state is AdapterState.LOADED)
        )

    @property
    def failed(self) -> bool:
        """Whether the sidecar gave up on the last order."""
        return (
            self.owned
            and not self.observed.silent
            and self.report is not None
            and (self.report.state is AdapterState.FAILED)
        )

    @property
    def is_labelled(self) -> bool:
        """Whether the pod's label says that it has it."""
        return self.name in self.pod.serving

    @property
    def drained_at(self) -> datetime | None:
        """When requests to the adapter are over on a pod that lost its label; None: they are."""
        return self.observed.drained_at(self.name)


def observe(snapshot: Snapshot) -> Iterator[ObservedPod]:
    """Yield the pods that can have adapters, by name, each with what is known of it."""
    rejections: dict[str, dict[Order, Rejection]] = {}
    for (uid, order), rejection in snapshot.rejections.items():
        rejections.setdefault(uid, {})[order] = rejection
    unlabelled_at: dict[str, dict[str, datetime]] = {}
    for (uid, name), when in snapshot.unlabelled_at.items():
        unlabelled_at.setdefault(uid, {})[name] = when
    pods = [pod for pod in snapshot.pods if not pod.leaving and pod.sidecar_port is not None]
    for pod in sorted(pods, key=lambda pod: pod.name):
        sidecar = snapshot.observations.get(pod.uid, UNOBSERVED)
        answer = sidecar.answer or sidecar.last
        yield ObservedPod(
            pod,
            sidecar,
            reports={} if answer is None else {report.lora_name: report for report in answer.adapters},
            silent=sidecar.answer is None,
            unasked=not sidecar.polled and pod.ip is not None and (pod.ready or bool(pod.serving)),
            rejections=rejections.get(pod.uid, {}),
            unlabelled_at=unlabelled_at.get(pod.uid, {}),
            now=snapshot.now,
        )


def desired_of(adapter: LoraAdapter, credentials: Mapping[str, Credentials | Condition]) -> Desired:
    """Return what to order for a LoraAdapter."""
    load = load_request(adapter)
    source = adapter.spec.source
    secret = None if source.secret_ref is None else source.secret_ref.name
    missing: Condition | None = None
    if secret is not None:
        found = credentials.get(adapter.metadata.name)
        if isinstance(found, Credentials):
            load = LoadRequest.model_validate(
                load.model_dump(exclude_unset=True) | {"credentials_revision": found.revision}
            )
        else:
            missing = found or Condition("SecretNotRead", f"The operator has not read Secret {secret} yet.")
    prepare = None
    if not source.is_file:
        prepare = LoadRequest.model_validate(load.model_dump(exclude_unset=True) | {"prepare": True})
    return Desired(adapter, load, prepare, secret, missing)


Claims = Mapping[tuple[str, str], LoraAdapter]
"""Who has a name on a pod, by the pod's UID and the name, where several LoraAdapters want it."""


def claims_of(adapters: Iterable[LoraAdapter], index: PodIndex[ObservedPod]) -> Incremental[Claims]:
    """Return who has the names that several LoraAdapters want: on each pod, the older one."""
    named: dict[str, list[LoraAdapter]] = {}
    for adapter in oldest_first(adapters):
        named.setdefault(adapter.adapter_name, []).append(adapter)
    claims: dict[tuple[str, str], LoraAdapter] = {}
    for name, rivals in named.items():
        if len(rivals) == 1:
            continue
        for adapter in rivals:
            for part in in_chunks(index.of(adapter)):
                for observed in part:
                    if _serves(observed.sidecar, adapter.spec.base_model):
                        claims.setdefault((observed.pod.uid, name), adapter)
                yield
    return claims


def candidates_of(desired: Desired, index: PodIndex[ObservedPod], claims: Claims) -> Incremental[list[Candidate]]:
    """Return the pods that a LoraAdapter is for, as it sees them."""
    candidates: list[Candidate] = []
    adapter, name, base_model = desired.adapter, desired.name, desired.adapter.spec.base_model
    for part in in_chunks(index.of(adapter)):
        for observed in part:
            if base_model is None or _serves(observed.sidecar, base_model):
                claim = claims.get((observed.pod.uid, name), adapter)
                candidates.append(_candidate(observed, desired, None if claim is adapter else claim))
        yield
    return candidates


def _candidate(observed: ObservedPod, desired: Desired, holder: LoraAdapter | None) -> Candidate:
    name, pod = desired.name, observed.pod
    report = observed.reports.get(name)
    if report is None:
        # No operator that runs now has an answer of this sidecar, but its label says that it had it.
        had = holder is None and observed.silent and observed.sidecar.last is None and name in pod.serving
        return Candidate(observed, pod, name, None, had, False, False, False, holder)
    state = report.state
    is_owned = holder is None and report.owner == desired.owner
    updated = is_owned and report.revision == desired.load.revision
    unloading = state is AdapterState.UNLOADING
    listed = state is AdapterState.LOADED or report.held_revision is not None
    return Candidate(
        observed,
        pod,
        name,
        report,
        is_owned,
        updated,
        unloading,
        is_owned and listed and not unloading and not observed.silent,
        holder,
    )


def owned(report: Report, namespace: str) -> bool:
    """Tell whether a LoraAdapter of the namespace, present or past, had this loaded."""
    return report.owner is not None and report.owner.startswith(f"{OWNER_PREFIX}{namespace}/")


def _serves(sidecar: Observation, base_model: str | None) -> bool:
    """A pod whose engine is known to serve another model is not one of the adapter's pods."""
    answer = sidecar.answer or sidecar.last
    if base_model is None or answer is None or not answer.base_models:
        return True
    return base_model in answer.base_models

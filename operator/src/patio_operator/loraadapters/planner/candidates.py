"""Who has what where: pods and their sidecars' reports, seen from one LoraAdapter at a time. Pure.

The first step of `planner`: everything after it (placing, rollout, marks) speaks of spots, a pod as one LoraAdapter
sees it, and never reads reports by itself. What a silent sidecar said last is used to know who had the adapter; it is
never taken for what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import NamedTuple

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.candidates import Candidates
from patio_operator.placement.credentials import Credentials, Missing
from patio_operator.placement.fleet import NOT_SEEN, Pod, Report, Seen
from patio_operator.placement.matching import OWNER_PREFIX, load_request, oldest_first
from patio_operator.placement.steps import Steps, in_parts
from patio_protocol.adapters import AdapterState, LoadRequest

UNREACHABLE_BOUND = timedelta(seconds=30)
"""How long a pod whose sidecar is silent keeps its place before another pod is given the adapter."""


@dataclass(frozen=True, slots=True)
class Host:
    """A pod that is not leaving, with what its sidecar says, or said last, by adapter name."""

    pod: Pod
    view: Seen
    reports: Mapping[str, Report]
    silent: bool
    """Whether its sidecar does not answer now."""
    unasked: bool
    """Whether it may well have adapters and nobody has asked it yet: what it has decides where others go."""


@dataclass(frozen=True)
class Terms:
    """What the orders for one LoraAdapter say."""

    adapter: LoraAdapter
    load: LoadRequest
    prepare: LoadRequest | None
    """None: the files are where they are used."""
    secret: str | None = None
    missing: Missing | None = None
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


class Spot(NamedTuple):
    """One pod, as one LoraAdapter that selects it sees it. There are as many as there are placements."""

    host: Host
    pod: Pod
    name: str
    """The adapter's, in requests."""
    report: Report | None
    """On the adapter's name, whoever wants it."""
    mine: bool
    """This LoraAdapter had it loaded there, or is having it."""
    updated: bool
    """Mine, and ordered from the source as it is declared now."""
    going: bool
    """Whether the pod was told to let go of it."""
    answers: bool
    """Whether the engine is known to answer under the name from what this LoraAdapter ordered, new or old."""
    holder: LoraAdapter | None = None
    """The older LoraAdapter that wants the name on this pod; None: nobody does."""

    @property
    def loaded(self) -> bool:
        """Whether the engine is known to answer from the source as it is declared now."""
        return (
            self.updated
            and not self.host.silent
            and self.report is not None
            and (self.report.state is AdapterState.LOADED)
        )

    @property
    def failed(self) -> bool:
        """Whether the sidecar gave up on the last order."""
        return (
            self.mine
            and not self.host.silent
            and self.report is not None
            and (self.report.state is AdapterState.FAILED)
        )

    @property
    def marked(self) -> bool:
        """Whether the pod's label says that it has it."""
        return self.name in self.pod.marks

    def lost(self, now: datetime) -> bool:
        """Tell whether its sidecar has been silent for too long to wait for it."""
        since = self.host.view.unreachable_since
        return self.host.silent and since is not None and now - since >= UNREACHABLE_BOUND


def host_of(pod: Pod, seen: Mapping[str, Seen]) -> Host:
    """Return a pod with what its sidecar says."""
    view = seen.get(pod.uid, NOT_SEEN)
    known = view.answer or view.last
    reports = {} if known is None else {one.lora_name: one for one in known.adapters}
    unasked = not view.asked and pod.ip is not None and (pod.ready or bool(pod.marks))
    return Host(pod, view, reports, view.answer is None, unasked)


def terms_of(adapter: LoraAdapter, credentials: Mapping[str, Credentials | Missing]) -> Terms:
    """Return what to order for a LoraAdapter."""
    load = load_request(adapter)
    source = adapter.spec.source
    secret = None if source.secret_ref is None else source.secret_ref.name
    missing: Missing | None = None
    if secret is not None:
        found = credentials.get(adapter.metadata.name)
        if isinstance(found, Credentials):
            load = LoadRequest.model_validate(
                load.model_dump(exclude_unset=True) | {"credentials_revision": found.revision}
            )
        else:
            missing = found or Missing("SecretNotRead", f"Secret {secret} was not read yet.")
    prepare = None
    if not source.is_file:
        prepare = LoadRequest.model_validate(load.model_dump(exclude_unset=True) | {"prepare": True})
    return Terms(adapter, load, prepare, secret, missing)


Claims = Mapping[tuple[str, str], LoraAdapter]
"""Who has a name on a pod, by the pod's UID and the name, where several LoraAdapters want it."""


def claims_of(adapters: Iterable[LoraAdapter], candidates: Candidates[Host]) -> Steps[Claims]:
    """Return who has the names that several LoraAdapters want: on each pod, the older one."""
    named: dict[str, list[LoraAdapter]] = {}
    for adapter in oldest_first(adapters):
        named.setdefault(adapter.adapter_name, []).append(adapter)
    claims: dict[tuple[str, str], LoraAdapter] = {}
    for name, rivals in named.items():
        if len(rivals) == 1:
            continue
        for adapter in rivals:
            for part in in_parts(candidates.of(adapter)):
                for host in part:
                    if _serves(host.view, adapter.spec.base_model):
                        claims.setdefault((host.pod.uid, name), adapter)
                yield
    return claims


def spots_of(terms: Terms, candidates: Candidates[Host], claims: Claims) -> Steps[list[Spot]]:
    """Return the pods that a LoraAdapter is for, as it sees them."""
    spots: list[Spot] = []
    adapter, name, base_model = terms.adapter, terms.name, terms.adapter.spec.base_model
    for part in in_parts(candidates.of(adapter)):
        for host in part:
            if base_model is None or _serves(host.view, base_model):
                claim = claims.get((host.pod.uid, name), adapter)
                spots.append(_spot(host, terms, None if claim is adapter else claim))
        yield
    return spots


def _spot(host: Host, terms: Terms, holder: LoraAdapter | None) -> Spot:
    name, pod = terms.name, host.pod
    report = host.reports.get(name)
    if report is None:
        # Nobody who is running now ever heard from this sidecar, but its label says that it had it.
        had = holder is None and host.silent and host.view.last is None and name in pod.marks
        return Spot(host, pod, name, None, had, False, False, False, holder)
    state = report.state
    mine = holder is None and report.owner == terms.owner
    updated = mine and report.revision == terms.load.revision
    going = state is AdapterState.UNLOADING
    there = state is AdapterState.LOADED or report.held_revision is not None
    return Spot(host, pod, name, report, mine, updated, going, mine and there and not going and not host.silent, holder)


def owned(report: Report, namespace: str) -> bool:
    """Tell whether a LoraAdapter of the namespace, present or past, had this loaded."""
    return report.owner is not None and report.owner.startswith(f"{OWNER_PREFIX}{namespace}/")


def _serves(view: Seen, base_model: str | None) -> bool:
    """A pod whose engine is known to serve another model is not one of the adapter's pods."""
    known = view.answer or view.last
    if base_model is None or known is None or not known.base_models:
        return True
    return base_model in known.base_models

"""Who has what where: pods and their sidecars' reports, seen from one LoraAdapter at a time. Pure.

The first step of `planner`: everything after it (placing, rollout, marks) speaks of spots, a pod as one LoraAdapter
sees it, and never reads reports by itself. What a silent sidecar said last is used to know who had the adapter; it is
never taken for what is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from patio.api.protocol import AdapterReport, AdapterState, LoadRequest
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.credentials import Credentials, Missing
from patio_operator.placement.fleet import NOT_SEEN, Pod, Seen
from patio_operator.placement.matching import OWNER_PREFIX, load_request, oldest_first, selects

UNREACHABLE_BOUND = timedelta(seconds=30)
"""How long a pod whose sidecar is silent keeps its place before another pod is given the adapter."""


@dataclass(frozen=True, slots=True)
class Host:
    """A pod that is not leaving, with what its sidecar says, or said last, by adapter name."""

    pod: Pod
    view: Seen
    reports: Mapping[str, AdapterReport]

    @property
    def silent(self) -> bool:
        """Whether its sidecar does not answer now."""
        return self.view.answer is None

    @property
    def unasked(self) -> bool:
        """Whether it may well have adapters and nobody has asked it yet: what it has decides where others go."""
        return not self.view.asked and self.pod.ip is not None and (self.pod.ready or bool(self.pod.marks))


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Spot:
    """One pod, as one LoraAdapter that selects it sees it."""

    host: Host
    name: str
    """The adapter's, in requests."""
    report: AdapterReport | None
    """On the adapter's name, whoever wants it."""
    mine: bool
    """This LoraAdapter had it loaded there, or is having it."""
    updated: bool
    """Mine, and ordered from the source as it is declared now."""
    holder: LoraAdapter | None = None
    """The older LoraAdapter that wants the name on this pod; None: nobody does."""

    @property
    def pod(self) -> Pod:
        """The pod."""
        return self.host.pod

    @property
    def going(self) -> bool:
        """Whether the pod was told to let go of it."""
        return self.report is not None and self.report.state is AdapterState.UNLOADING

    @property
    def answers(self) -> bool:
        """Whether the engine is known to answer under the name from what this LoraAdapter ordered, new or old."""
        if not self.mine or self.going or self.report is None or self.host.silent:
            return False
        return self.report.state is AdapterState.LOADED or self.report.held_revision is not None

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


def hosts_of(pods: Iterable[Pod], seen: Mapping[str, Seen]) -> list[Host]:
    """Return the pods that count, by name."""
    found = []
    for pod in sorted(pods, key=lambda one: one.name):
        if not pod.leaving:
            view = seen.get(pod.uid, NOT_SEEN)
            known = view.answer or view.last
            found.append(Host(pod, view, {} if known is None else {one.lora_name: one for one in known.adapters}))
    return found


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


def spots_of(terms: Sequence[Terms], hosts: Sequence[Host]) -> dict[str, list[Spot]]:
    """Return the spots of each LoraAdapter, by object name. Where two want one name on a pod, the older has it."""
    by_key = {one.key: one for one in terms}
    claims: dict[tuple[str, str], LoraAdapter] = {}
    spots: dict[str, list[Spot]] = {}
    for adapter in oldest_first(one.adapter for one in terms):
        own = by_key[adapter.metadata.name]
        found = spots[own.key] = []
        for host in hosts:
            if not selects(adapter, host.pod.labels) or not _serves(host.view, adapter.spec.base_model):
                continue
            claim = claims.setdefault((host.pod.uid, own.name), adapter)
            found.append(_spot(host, own, None if claim is adapter else claim))
    return spots


def _spot(host: Host, terms: Terms, holder: LoraAdapter | None) -> Spot:
    report = host.reports.get(terms.name)
    mine = holder is None and report is not None and report.owner == terms.adapter.owner
    if report is None and holder is None and host.silent and host.view.last is None and terms.name in host.pod.marks:
        # Nobody who is running now ever heard from this sidecar, but its label says that it had it.
        return Spot(host, terms.name, None, mine=True, updated=False)
    updated = mine and report is not None and report.revision == terms.load.revision
    return Spot(host, terms.name, report, mine, updated, holder)


def owned(report: AdapterReport, namespace: str) -> bool:
    """Tell whether a LoraAdapter of the namespace, present or past, had this loaded."""
    return report.owner is not None and report.owner.startswith(f"{OWNER_PREFIX}{namespace}/")


def _serves(view: Seen, base_model: str | None) -> bool:
    """A pod whose engine is known to serve another model is not one of the adapter's pods."""
    known = view.answer or view.last
    if base_model is None or known is None or not known.base_models:
        return True
    return base_model in known.base_models

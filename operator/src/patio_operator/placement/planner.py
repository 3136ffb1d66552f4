"""From pods, their sidecars' reports and LoraAdapters to what is to be done. Pure: reasons in, reasons out.

Reads the namespace as it is now and says what should happen next; it remembers nothing between calls, so that any
order of events comes to the same end. `reconcile.adapters` carries the plan out and calls again when a report or
an object changes. Adapters that no LoraAdapter owns were loaded by hand and are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from patio.api.protocol import AdapterReport, AdapterState, LoadRequest, UnloadRequest
from patio_operator.api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_operator.placement.fleet import NOT_SEEN, Pod, Seen
from patio_operator.placement.matching import (
    OWNER_PREFIX,
    for_pod,
    is_deleting,
    load_request,
    selects,
)
from patio_operator.placement.status import Placed, PlacedState

DELETION_BOUND = timedelta(seconds=30)
"""How long a deletion waits for pods that do not answer. What they still hold is unloaded when they come back,
since its owner is gone."""


@dataclass(frozen=True)
class Load:
    """Tell a pod's sidecar to have an adapter."""

    pod: Pod
    request: LoadRequest
    reason: str


@dataclass(frozen=True)
class Unload:
    """Tell a pod's sidecar to let go of an adapter that one of our LoraAdapters made it load."""

    pod: Pod
    request: UnloadRequest
    reason: str


@dataclass(frozen=True)
class Hold:
    """Put our finalizer on a LoraAdapter, before anything is loaded for it."""

    adapter: LoraAdapter


@dataclass(frozen=True)
class Release:
    """Take our finalizer off a LoraAdapter: nothing is left of it, or its time is up."""

    adapter: LoraAdapter
    left_on: tuple[str, ...] = ()
    """Pods that did not answer within the bound and may still hold it."""


Action = Load | Unload | Hold | Release


Order = LoadRequest | UnloadRequest


@dataclass(frozen=True)
class Refusal:
    """A sidecar's answer to an order it did not take; the very same order is not repeated before `until`."""

    message: str
    retryable: bool
    until: datetime


@dataclass(frozen=True)
class Plan:
    """What to do now, and how each LoraAdapter that stays stands on its pods."""

    actions: tuple[Action, ...]
    placements: Mapping[str, tuple[Placed, ...]]
    """By the LoraAdapter's object name."""
    again_at: datetime | None = None
    """When to plan again though nothing changed."""


def plan(
    pods: Sequence[Pod],
    seen: Mapping[str, Seen],
    adapters: Sequence[LoraAdapter],
    refusals: Mapping[tuple[str, Order], Refusal],
    now: datetime,
) -> Plan:
    """Plan one namespace.

    Args:
        pods: every pod with a sidecar in the namespace.
        seen: what their sidecars said, by pod UID.
        adapters: every LoraAdapter of the namespace, those being deleted included.
        refusals: orders that a sidecar did not take, by pod UID and order.
        now: the time to judge bounds by.

    """
    actions: list[Action] = []
    placements: dict[str, list[Placed]] = {one.metadata.name: [] for one in adapters if not is_deleting(one)}
    actions += [
        Hold(one) for one in adapters if not is_deleting(one) and UNLOAD_FINALIZER not in one.metadata.finalizers
    ]
    times = [refusal.until for refusal in refusals.values() if refusal.until > now]
    for pod in sorted(pods, key=lambda one: one.name):
        if pod.leaving:
            continue
        view = seen.get(pod.uid, NOT_SEEN)
        wanted = {
            name: one for name, one in for_pod(adapters, pod.labels).items() if _serves(view, one.spec.base_model)
        }
        actions += _unloads(pod, view, wanted, refusals, now)
        for adapter in adapters:
            if is_deleting(adapter) or not selects(adapter, pod.labels):
                continue
            if not _serves(view, adapter.spec.base_model):
                continue
            name = adapter.adapter_name
            if wanted[name] is not adapter:
                placements[adapter.metadata.name].append(_taken(pod, name, wanted[name].owner))
                continue
            refusal = refusals.get((pod.uid, load_request(adapter)))
            placed, load = _place(pod, view, adapter, refusal, now)
            placements[adapter.metadata.name].append(placed)
            if load is not None:
                actions.append(load)
    for adapter in adapters:
        if is_deleting(adapter) and UNLOAD_FINALIZER in adapter.metadata.finalizers:
            release, wait_until = _release(pods, seen, adapter, now)
            if release is not None:
                actions.append(release)
            elif wait_until is not None:
                times.append(wait_until)
    return Plan(tuple(actions), {name: tuple(placed) for name, placed in placements.items()}, min(times, default=None))


def _serves(view: Seen, base_model: str | None) -> bool:
    """A pod whose engine is known to serve another model is not one of the adapter's pods."""
    if base_model is None or view.answer is None or not view.answer.base_models:
        return True
    return base_model in view.answer.base_models


def _place(
    pod: Pod, view: Seen, adapter: LoraAdapter, refusal: Refusal | None, now: datetime
) -> tuple[Placed, Load | None]:
    request = load_request(adapter)
    if view.answer is None:
        if view.ever_answered:
            return Placed(pod, PlacedState.UNKNOWN, "SidecarUnreachable", view.problem), None
        return Placed(pod, PlacedState.PENDING, "SidecarStarting", view.problem), None
    report = view.report(request.lora_name)
    if report is None or (report.owner == request.owner and not _same_order(report, request)):
        if refusal is not None and refusal.until > now:
            return Placed(
                pod,
                PlacedState.PENDING if refusal.retryable else PlacedState.FAILED,
                "SidecarRefused",
                refusal.message,
            ), None
        why = "the pod does not have it" if report is None else "its source changed"
        return Placed(pod, PlacedState.PENDING, "Ordered", f"The sidecar was told to load it: {why}."), Load(
            pod, request, why
        )
    if report.owner != request.owner:
        if report.owner is not None and report.owner.startswith(OWNER_PREFIX):
            message = f"The sidecar is letting go of the adapter of that name that {report.owner} had."
            return Placed(pod, PlacedState.PENDING, "WaitingForUnload", message), None
        return _taken(pod, request.lora_name, "whoever loaded it by hand"), None
    return Placed(pod, PlacedState(report.state.value), report.reason, report.message, report.attempts), None


def _same_order(report: AdapterReport, request: LoadRequest) -> bool:
    return report.revision == request.revision and report.state is not AdapterState.UNLOADING


def _taken(pod: Pod, name: str, holder: str) -> Placed:
    message = f"The name {name!r} on this pod belongs to {holder}. Give one of them another spec.adapterName."
    return Placed(pod, PlacedState.FAILED, "NameTaken", message)


def _unloads(
    pod: Pod,
    view: Seen,
    wanted: Mapping[str, LoraAdapter],
    refusals: Mapping[tuple[str, Order], Refusal],
    now: datetime,
) -> Iterable[Unload]:
    if view.answer is None:
        return
    for report in view.answer.adapters:
        if report.owner is None or not report.owner.startswith(f"{OWNER_PREFIX}{pod.namespace}/"):
            continue
        holder = wanted.get(report.lora_name)
        if (holder is not None and holder.owner == report.owner) or report.state is AdapterState.UNLOADING:
            continue
        request = UnloadRequest(lora_name=report.lora_name, owner=report.owner, wait=0)
        refusal = refusals.get((pod.uid, request))
        if refusal is None or refusal.until <= now:
            yield Unload(pod, request, f"{report.owner} does not want it on this pod any more")


def _release(
    pods: Sequence[Pod], seen: Mapping[str, Seen], adapter: LoraAdapter, now: datetime
) -> tuple[Release | None, datetime | None]:
    """Decide whether a LoraAdapter may go, or until when it waits."""
    holding: list[str] = []
    for pod in pods:
        view = seen.get(pod.uid, NOT_SEEN)
        if pod.leaving:
            continue
        if view.answer is None:
            if selects(adapter, pod.labels):
                holding.append(pod.name)
        elif any(report.owner == adapter.owner for report in view.answer.adapters):
            holding.append(pod.name)
    if not holding:
        return Release(adapter), None
    deadline = (adapter.metadata.deletion_timestamp or now) + DELETION_BOUND
    if now >= deadline:
        return Release(adapter, tuple(sorted(holding))), None
    return None, deadline

"""From pods, their sidecars' reports and LoraAdapters to what is to be done. Pure: reasons in, reasons out.

Reads the namespace as it is now and says what should happen next; it remembers nothing between calls, so that any
order of events comes to the same end. `reconcile.adapters` carries the plan out and calls again when a report or
an object changes. Adapters that no LoraAdapter owns were loaded by hand and are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from patio.api.protocol import AdapterReport, AdapterState, LoadRequest, UnloadRequest
from patio_operator.api.loraadapter import UNLOAD_FINALIZER, LoraAdapter
from patio_operator.placement.credentials import Credentials, Missing
from patio_operator.placement.fleet import NOT_SEEN, Pod, Seen
from patio_operator.placement.matching import (
    OWNER_PREFIX,
    for_pod,
    is_deleting,
    load_request,
    selects,
)
from patio_operator.placement.plans import (
    Action,
    Hold,
    Load,
    Order,
    Placed,
    PlacedState,
    Placement,
    Plan,
    Refusal,
    Release,
    Unload,
)

DELETION_BOUND = timedelta(seconds=30)
"""How long a deletion waits for pods that do not answer. What they still hold is unloaded when they come back,
since its owner is gone."""
SETTLE = timedelta(seconds=1)
"""How long after a pod's label went a request may still be on its way there."""
UNREACHABLE_BOUND = timedelta(seconds=30)
"""How long a pod whose sidecar is silent keeps its place before another pod is given the adapter."""


def plan(
    pods: Sequence[Pod],
    seen: Mapping[str, Seen],
    adapters: Sequence[LoraAdapter],
    credentials: Mapping[str, Credentials | Missing],
    refusals: Mapping[tuple[str, Order], Refusal],
    unmarked: Mapping[tuple[str, str], datetime],
    now: datetime,
) -> Plan:
    """Plan one namespace.

    Args:
        pods: every pod with a sidecar in the namespace.
        seen: what their sidecars said, by pod UID.
        adapters: every LoraAdapter of the namespace, those being deleted included.
        credentials: what there is for the LoraAdapters that have a secretRef, by object name.
        refusals: orders that a sidecar did not take, by pod UID and order (as the plan had it, without secrets).
        unmarked: when the label of an adapter was last taken off a pod, by pod UID and adapter name; what is absent
            was long ago. Only a removal that really changed the pod counts.
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
    return Plan(
        tuple(actions),
        {name: Placement(tuple(placed), len(placed)) for name, placed in placements.items()},
        min(times, default=None),
    )


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
            pod, adapter.metadata.name, request, why
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

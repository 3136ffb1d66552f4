"""Filters: why a pod cannot load an adapter, in the words of its status. Pure.

Used by `scheduling`, which passes such pods over, by `rollout`, and by `planner` for what a sidecar rejected.
"""

from __future__ import annotations

from patio_operator.loraadapters.planner.candidates import Candidate, Desired, owned
from patio_operator.loraadapters.planner.plan import Instance, InstanceState, Order, count


def filtered_out(desired: Desired, candidate: Candidate) -> Instance | None:
    """Return why a pod cannot load the adapter, capacity aside."""
    if candidate.holder is not None:
        return name_taken(candidate, candidate.holder.owner)
    if candidate.observed.silent:
        return unreachable(candidate, candidate.observed.sidecar.problem)
    report = candidate.report
    if report is not None and not candidate.owned:
        if owned(report, candidate.pod.namespace):
            message = f"The sidecar is still unloading an adapter with this name that belongs to {report.owner}."
            return pending(candidate, "WaitingForUnload", message)
        return name_taken(candidate, report.owner)
    if desired.missing is not None:
        return pending(candidate, desired.missing.reason, desired.missing.message)
    answer = candidate.observed.sidecar.answer
    if desired.adapter.spec.base_model is not None and answer is not None and not answer.base_models:
        return pending(candidate, "EngineNotReady", "The engine has not reported its base model yet.")
    return rejected(desired.load, candidate)


def rejected(order: Order, candidate: Candidate) -> Instance | None:
    """Return what is to be said of a pod whose sidecar did not take this very order, until it may be given again."""
    return last_rejection(order, candidate) if candidate.observed.rejects(order) else None


def last_rejection(order: Order, candidate: Candidate) -> Instance | None:
    """Return the state of a pod that rejected an order, also during a retry."""
    rejection = candidate.observed.rejections.get(order)
    if rejection is None:
        return None
    state = InstanceState.PENDING if rejection.retryable else InstanceState.FAILED
    return Instance(candidate.pod, state, rejection.reason, rejection.message)


def no_capacity(candidate: Candidate) -> Instance:
    """Return that the engine holds no more adapters."""
    answer = candidate.observed.sidecar.answer
    limit = None if answer is None else answer.capacity.loaded
    message = f"The engine is at its limit of {count(limit or 0, 'loaded adapter')}."
    return pending(candidate, "NoCapacity", message)


def name_taken(candidate: Candidate, holder: str | None) -> Instance:
    """Return that the name is another owner's on this pod; `holder` None: an adapter that was loaded manually."""
    if holder is None:
        used, remedy = "an adapter that was loaded manually", "Unload it manually, or choose another spec.adapterName."
    else:
        used, remedy = holder, "Give one of them another spec.adapterName."
    message = f"The name {candidate.name!r} is already used on this pod by {used}. {remedy}"
    return Instance(candidate.pod, InstanceState.FAILED, "NameTaken", message)


def unreachable(candidate: Candidate, message: str) -> Instance:
    """Return that a sidecar does not answer: not any more, or not yet."""
    if candidate.owned or candidate.observed.sidecar.ever_answered:
        return Instance(candidate.pod, InstanceState.UNKNOWN, "SidecarUnreachable", message)
    return pending(candidate, "SidecarStarting", message)


def pending(candidate: Candidate, reason: str, message: str) -> Instance:
    """Return that the adapter is to come to this pod, and why not now."""
    return Instance(candidate.pod, InstanceState.PENDING, reason, message)

"""Conflicts: two LoraAdapters that want one name on the same pods, found when the second is written. Pure.

`webhooks.loraadapters` rejects what is certain to conflict, now or for pods to come: both name one role, one selects
every pod that the other selects, or a pod that exists is selected by both. Whether two selectors meet on a pod that
does not exist yet is unknown: then the planner gives the name to the older and says `NameTaken`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from patio_api.labels import GROUP_NAME, ROLE_NAME
from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.selection import is_deleting, oldest_first, selects


@dataclass(frozen=True)
class SelectablePod:
    """A pod with a sidecar, as far as a LoraAdapter's selection and guard go."""

    name: str
    labels: Mapping[str, str]
    model: str | None
    """The name under which its engine serves its base model, if it is known."""


@dataclass(frozen=True)
class Conflict:
    """Who wants the same name on the same pods."""

    other: str
    """Name of the LoraAdapter that was there."""
    message: str
    """A sentence that names both, the pods and the remedy."""


def rivals(adapter: LoraAdapter, others: Iterable[LoraAdapter]) -> list[LoraAdapter]:
    """Return the LoraAdapters of the namespace that want the same name somewhere, the oldest first."""
    return [
        other
        for other in oldest_first(others)
        if other.metadata.name != adapter.metadata.name
        and other.adapter_name == adapter.adapter_name
        and not is_deleting(other)
        and not _guards_differ(adapter, other)
    ]


def declared_conflict(adapter: LoraAdapter, others: Sequence[LoraAdapter]) -> Conflict | None:
    """Return the first of its rivals with which it clashes whatever pods there are; None when there is none."""
    for other in others:
        refs = adapter.spec.role_ref, other.spec.role_ref
        if refs[0] is not None and refs[0] == refs[1]:
            return _conflict(adapter, other, f"both select role {refs[0].role!r} of RoleBasedGroup {refs[0].group!r}")
        if _covers(adapter, other) and _covers(other, adapter):
            return _conflict(adapter, other, "both select the same pods")
        if _covers(other, adapter):
            return _conflict(adapter, other, f"{_named(other)} selects every pod that {_named(adapter)} selects")
        if _covers(adapter, other):
            return _conflict(adapter, other, f"{_named(adapter)} selects every pod that {_named(other)} selects")
    return None


def conflict_on_a_pod(
    adapter: LoraAdapter, others: Sequence[LoraAdapter], pods: Iterable[SelectablePod]
) -> Conflict | None:
    """Return the first of its rivals that is for a pod that it is for as well; None when there is none."""
    matching = [pod for pod in sorted(pods, key=lambda pod: pod.name) if _is_for(adapter, pod)]
    for other in others:
        for pod in matching:
            if _is_for(other, pod):
                return _conflict(adapter, other, f"both select pod {pod.name!r}")
    return None


def _guards_differ(adapter: LoraAdapter, other: LoraAdapter) -> bool:
    """Whether they are for pods of different base models, and so never for the same."""
    models = adapter.spec.base_model, other.spec.base_model
    return None not in models and models[0] != models[1]


def _covers(wide: LoraAdapter, narrow: LoraAdapter) -> bool:
    """Whether every pod that one is for is certain to be one that the other is for."""
    if wide.spec.base_model not in (None, narrow.spec.base_model):
        return False
    return selects(wide, _least_labels(narrow))


def _least_labels(adapter: LoraAdapter) -> Mapping[str, str]:
    """Return the labels that every pod has that it selects."""
    if adapter.spec.selector is not None:
        return adapter.spec.selector.match_labels
    role_ref = adapter.spec.role_ref
    return {} if role_ref is None else {GROUP_NAME: role_ref.group, ROLE_NAME: role_ref.role}


def _is_for(adapter: LoraAdapter, pod: SelectablePod) -> bool:
    return selects(adapter, pod.labels) and adapter.spec.base_model in (None, pod.model)


def _conflict(adapter: LoraAdapter, other: LoraAdapter, why: str) -> Conflict:
    message = (
        f"{_named(adapter)} and {_named(other)} would both serve the name {adapter.adapter_name!r} on the same pods: "
        f"{why}. Give one of them another spec.adapterName, or select other pods."
    )
    return Conflict(other.metadata.name, message)


def _named(adapter: LoraAdapter) -> str:
    return f"{adapter.kind} {adapter.metadata.name!r}"

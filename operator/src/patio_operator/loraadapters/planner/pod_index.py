"""Which pods a LoraAdapter may select, found by label instead of by looking at every pod. Pure.

Filled once for a plan with all pods; then each LoraAdapter finds those that have one of its labels, the one that fewest
pods have, and `selection.selects` is asked about these only. So a plan costs what there is to place, not the product of
LoraAdapters and pods.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Generic, TypeVar

from patio_operator.api.labels import group_and_role
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.selection import selects

T = TypeVar("T")


class PodIndex(Generic[T]):
    """Things with labels, by label and by role."""

    def __init__(self, adapters: Iterable[LoraAdapter]) -> None:
        """Take the LoraAdapters that will ask: no other labels than theirs are of interest."""
        selectors = (adapter.spec.selector for adapter in adapters)
        self._keys = frozenset(key for selector in selectors if selector is not None for key in selector.match_labels)
        self._by_label: dict[tuple[str, str], list[tuple[Mapping[str, str], T]]] = {}
        self._by_role: dict[tuple[str, str], list[T]] = {}

    def add(self, labels: Mapping[str, str], what: T) -> None:
        """Add one; what is found later is in the order of adding."""
        fewer, more = sorted((self._keys, labels.keys()), key=len)
        for key in fewer:
            if key in more:
                self._by_label.setdefault((key, labels[key]), []).append((labels, what))
        role = group_and_role(labels)
        if role is not None:
            self._by_role.setdefault(role, []).append(what)

    def of(self, adapter: LoraAdapter) -> Sequence[T]:
        """Return those that the LoraAdapter selects."""
        selector, role = adapter.spec.selector, adapter.spec.role_ref
        if selector is None:
            return [] if role is None else self._by_role.get((role.group, role.role), [])
        lists = [self._by_label.get(label, []) for label in selector.match_labels.items()]
        fewest = min(lists, key=len, default=[])
        if len(lists) == 1:
            return [what for _, what in fewest]
        return [what for labels, what in fewest if selects(adapter, labels)]

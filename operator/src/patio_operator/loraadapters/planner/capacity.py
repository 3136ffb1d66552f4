"""Capacity: how many more adapters each engine takes, while one plan is being made. Pure.

Only what an engine is known to enforce is a limit: SGLang's --max-loaded-loras, above which it evicts an adapter
silently. Everything that the sidecar reports takes a slot, adapters that were loaded manually or that failed included:
what failed is tried again. `scheduling` reserves slots as it goes, from the LoraAdapter of the highest precedence to
the lowest, so that no slot is promised twice. A pinned adapter may preempt one that is not.
"""

from __future__ import annotations

from collections.abc import Iterable

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.candidates import ObservedPod
from patio_operator.loraadapters.planner.plan import count
from patio_operator.loraadapters.planner.selection import oldest_first
from patio_protocol.adapters import AdapterState


class CapacityLedger:
    """What is left, by pod; the one thing in a plan that changes while it is made."""

    def __init__(self, adapters: Iterable[LoraAdapter]) -> None:
        """Take the LoraAdapters that stay; their pods are added before anything is asked of them."""
        self._newest_first = {
            adapter.owner: (age, adapter) for age, adapter in enumerate(reversed(oldest_first(adapters)))
        }
        self._used: dict[str, set[str]] = {}
        self._freed: dict[str, int] = {}
        self._preempted: dict[tuple[str, str], str] = {}
        self._observed: dict[str, ObservedPod] = {}
        self._unloading: dict[str, frozenset[str]] = {}

    def add(self, observed: ObservedPod) -> None:
        """Add a pod."""
        uid = observed.pod.uid
        self._observed[uid] = observed
        self._used[uid] = set(observed.reports)
        self._unloading[uid] = frozenset(
            name for name, report in observed.reports.items() if report.state is AdapterState.UNLOADING
        )
        self._freed[uid] = len(self._unloading[uid])
        self._shed(uid)

    def used(self, uid: str) -> int:
        """Return how many adapters a pod has or is promised."""
        return len(self._used[uid])

    def fits(self, uid: str, name: str) -> bool:
        """Tell whether a pod can load one more, or keep one that it is unloading."""
        limit = self._limit(uid)
        if limit is None:
            return True
        if name in self._unloading[uid]:
            return self._freed[uid] > 0
        return name in self._used[uid] or len(self._used[uid]) < limit

    def fits_batch(self, uid: str) -> bool:
        """Tell whether one more would fit into a batch together with all that the pod has."""
        answer = self._observed[uid].sidecar.answer
        return answer is None or answer.capacity.batch is None or len(self._used[uid]) < answer.capacity.batch

    def reserve(self, uid: str, name: str) -> None:
        """Promise room to an adapter that fits."""
        self._used[uid].add(name)
        if name in self._unloading[uid]:
            self._freed[uid] -= 1

    def is_becoming_free(self, uid: str) -> bool:
        """Tell whether an adapter is being unloaded and its slot not reserved."""
        return self._freed[uid] > 0

    def reserve_freed(self, uid: str) -> bool:
        """Promise room that is becoming free, if there is any."""
        if not self.is_becoming_free(uid):
            return False
        self._freed[uid] -= 1
        return True

    def victim(self, uid: str) -> LoraAdapter | None:
        """Return the newest LoraAdapter on a pod that is not pinned, if there is one to make room."""
        evictable = (
            adapter
            for adapter in self._held_by(uid)
            if not adapter.spec.pinned and (uid, adapter.owner) not in self._preempted
        )
        return next(evictable, None)

    def preempt(self, uid: str, victim: LoraAdapter, by: LoraAdapter) -> None:
        """Have a LoraAdapter make room for a pinned one; the room is promised, and free once the other is gone."""
        self._preempted[uid, victim.owner] = f"Preempted by the pinned adapter {by.owner}: the engine is at capacity."

    def preempted(self, uid: str, adapter: LoraAdapter) -> str | None:
        """Return why a LoraAdapter has to leave a pod for lack of room, in a sentence; None: it has not."""
        return self._preempted.get((uid, adapter.owner)) if self._preempted else None

    def _shed(self, uid: str) -> None:
        """Preempt what was ordered beyond an engine's limit: what it did not load, the newest first.

        It comes to that when a limit is lowered, when a user loads one manually, and when an order crosses another.
        """
        limit, reports = self._limit(uid), self._observed[uid].reports.values()
        surplus = 0 if limit is None else len(reports) - len(self._unloading[uid]) - limit
        if surplus <= 0:
            return
        idle = {
            report.owner
            for report in reports
            if report.state is not AdapterState.LOADED and report.held_revision is None
        }
        adapters = self._held_by(uid)
        pinned = [adapter for adapter in adapters if adapter.spec.pinned and adapter.owner in idle]
        leaving = [adapter for adapter in adapters if not adapter.spec.pinned and adapter.owner in idle]
        if pinned:
            leaving += [adapter for adapter in adapters if not adapter.spec.pinned and adapter.owner not in idle]
        for adapter in (*leaving, *pinned)[:surplus]:
            most = count(limit or 0, "adapter")
            message = f"The engine is at its limit of {most}; older or pinned adapters take precedence."
            self._preempted[uid, adapter.owner] = message

    def _held_by(self, uid: str) -> list[LoraAdapter]:
        """Return the LoraAdapters whose adapters a pod has and is not unloading, the newest first."""
        reports = self._observed[uid].reports.values()
        owners = {report.owner for report in reports if report.state is not AdapterState.UNLOADING}
        aged = [self._newest_first[owner] for owner in owners if owner is not None and owner in self._newest_first]
        return [adapter for _, adapter in sorted(aged, key=lambda each: each[0])]

    def _limit(self, uid: str) -> int | None:
        answer = self._observed[uid].sidecar.answer
        return None if answer is None else answer.capacity.loaded

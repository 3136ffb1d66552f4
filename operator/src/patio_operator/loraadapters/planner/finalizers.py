"""When the finalizer of a deleted LoraAdapter is removed. Pure.

Its pods are ordered to unload by the ordinary rule of `planner`: no LoraAdapter wants it there any more. Here is only
decided whether the finalizer can be removed: nothing is left, or the time is up. What is left behind then is unloaded
when its sidecar answers again, for its owner is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.candidates import ObservedPod
from patio_operator.loraadapters.planner.plan import RemoveFinalizer
from patio_operator.loraadapters.planner.selection import PodIndex

DELETION_BOUND = timedelta(seconds=30)
"""How long a deletion waits for pods that do not let go."""


class Holders:
    """Which pods may have what deleted LoraAdapters had: filled with the pods once, then asked for each."""

    def __init__(self, deleted: Iterable[LoraAdapter]) -> None:
        """Take the LoraAdapters that will be asked for."""
        deleted = list(deleted)
        self._holding: dict[str, set[str]] = {adapter.owner: set() for adapter in deleted}
        self._never_heard: PodIndex[str] = PodIndex(deleted)

    def add(self, observed: ObservedPod) -> None:
        """Add a pod."""
        if observed.silent and observed.sidecar.last is None:
            self._never_heard.add(observed.pod.labels, observed.pod.name)
            return
        for report in observed.reports.values():
            if report.owner is not None and report.owner in self._holding:
                self._holding[report.owner].add(observed.pod.name)

    def of(self, adapter: LoraAdapter) -> list[str]:
        """Return the names of the pods that may have what a LoraAdapter had."""
        return sorted({*self._holding[adapter.owner], *self._never_heard.of(adapter)})


def finalizer_removal(
    holders: Holders, adapter: LoraAdapter, noticed: datetime, now: datetime
) -> RemoveFinalizer | datetime:
    """Return the release of a deleted LoraAdapter, or until when it waits.

    Args:
        holders: the pods.
        adapter: the LoraAdapter.
        noticed: when the operator saw first that it is deleted, by the operator's own clock. The deletion's own time
            is by the API server's clock, which may be ahead or behind.
        now: the time by the operator's clock.

    """
    holding = holders.of(adapter)
    if not holding:
        return RemoveFinalizer(adapter)
    deadline = noticed + DELETION_BOUND
    return RemoveFinalizer(adapter, tuple(holding)) if now >= deadline else deadline

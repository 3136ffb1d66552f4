"""When a deleted LoraAdapter may go. Pure.

Its pods are told to unload by the ordinary rule of `planner`: nobody wants it any more. Here is only decided whether
the finalizer can be taken off: nothing is left, or the time is up. What is left behind then is unloaded when its
sidecar answers again, for its owner is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.candidates import Candidates
from patio_operator.placement.plans import Release
from patio_operator.placement.spots import Host

DELETION_BOUND = timedelta(seconds=30)
"""How long a deletion waits for pods that do not let go."""


class Holders:
    """Which pods may have what deleted LoraAdapters had: filled with the pods once, then asked for each."""

    def __init__(self, deleted: Iterable[LoraAdapter]) -> None:
        """Take the LoraAdapters that will be asked for."""
        deleted = list(deleted)
        self._holding: dict[str, set[str]] = {one.owner: set() for one in deleted}
        self._never_heard: Candidates[str] = Candidates(deleted)

    def add(self, host: Host) -> None:
        """Add a pod."""
        if host.silent and host.view.last is None:
            self._never_heard.add(host.pod.labels, host.pod.name)
            return
        for report in host.reports.values():
            if report.owner is not None and report.owner in self._holding:
                self._holding[report.owner].add(host.pod.name)

    def of(self, adapter: LoraAdapter) -> list[str]:
        """Return the names of the pods that may have what a LoraAdapter had."""
        return sorted({*self._holding[adapter.owner], *self._never_heard.of(adapter)})


def release(holders: Holders, adapter: LoraAdapter, noticed: datetime, now: datetime) -> Release | datetime:
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
        return Release(adapter)
    deadline = noticed + DELETION_BOUND
    return Release(adapter, tuple(holding)) if now >= deadline else deadline

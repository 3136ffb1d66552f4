"""When a deleted LoraAdapter may go. Pure.

Its pods are told to unload by the ordinary rule of `planner`: nobody wants it any more. Here is only decided whether
the finalizer can be taken off: nothing is left, or the time is up. What is left behind then is unloaded when its
sidecar answers again, for its owner is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.matching import selects
from patio_operator.placement.plans import Release
from patio_operator.placement.spots import Host

DELETION_BOUND = timedelta(seconds=30)
"""How long a deletion waits for pods that do not let go."""


def release(hosts: Iterable[Host], adapter: LoraAdapter, now: datetime) -> Release | datetime:
    """Return the release of a deleted LoraAdapter, or until when it waits."""
    holding = [host.pod.name for host in hosts if _may_hold(host, adapter)]
    if not holding:
        return Release(adapter)
    deadline = (adapter.metadata.deletion_timestamp or now) + DELETION_BOUND
    return Release(adapter, tuple(sorted(holding))) if now >= deadline else deadline


def _may_hold(host: Host, adapter: LoraAdapter) -> bool:
    if host.silent and host.view.last is None:
        return selects(adapter, host.pod.labels)
    return any(report.owner == adapter.owner for report in host.reports.values())

"""kopf's handlers, one file per watched kind. Each turns an event into a key on a work queue, and nothing more.

They are coroutines though they wait for nothing: kopf runs plain functions in threads, which queues are not made for.
`Wakers` is what they get from the app, as kopf's memo: how to wake the reconcilers. Pods and LoraAdapters are not
among the kinds: `cluster.known` watches them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Wakers:
    """Wakes reconcilers. kopf hands a copy of it to every handler."""

    group: Callable[[str, str], None]
    """Takes a RoleBasedGroup's namespace and name."""
    all_groups: Callable[[], None]
    profile: Callable[[str], None]
    """Takes a profile's name."""

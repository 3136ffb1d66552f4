"""kopf's handler of ClusterEngineRuntimeProfiles: each event of one adds its name to the work queue.

It is a coroutine though it waits for nothing: kopf runs plain functions in threads, which queues are not made for.
Profiles are the one resource that only administrators of the cluster write. What users of a namespace write does not
come here: kopf decodes objects without a bound, and one that it cannot decode would end the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kopf

from patio_kube.resources import PROFILE


def register(registry: kopf.OperatorRegistry, wake: Callable[[str], None]) -> None:
    """Register the handler; `wake` adds a profile's name to the work queue."""

    @kopf.on.event(PROFILE.group, PROFILE.version, PROFILE.plural, registry=registry)
    async def on_profile(name: str, **_: Any) -> None:
        wake(name)

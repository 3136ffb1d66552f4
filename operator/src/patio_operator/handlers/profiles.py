"""ClusterEngineRuntimeProfiles: any event of one wakes its reconciler and every group, since one may wait for it."""

from __future__ import annotations

from typing import Any

import kopf

from patio_operator.cluster.kinds import PROFILE
from patio_operator.handlers import Wakers


def register(registry: kopf.OperatorRegistry) -> None:
    """Register the handlers of this kind."""

    @kopf.on.event(PROFILE.group, PROFILE.version, PROFILE.plural, registry=registry)
    async def on_profile(name: str, memo: Wakers, **_: Any) -> None:
        memo.profile(name)
        memo.all_groups()

"""Pods with a sidecar: any event of one wakes the planner of its namespace and the profiles that it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kopf

from patio_operator.api import labels
from patio_operator.cluster.kinds import POD
from patio_operator.handlers import Wakers
from patio_operator.rollouts.users import profiles_in


def register(registry: kopf.OperatorRegistry) -> None:
    """Register the handlers of this kind."""

    @kopf.on.event(POD.version, POD.plural, labels={labels.INJECTED: "true"}, registry=registry)
    async def on_pod(namespace: str | None, meta: Mapping[str, Any], memo: Wakers, **_: Any) -> None:
        assert namespace is not None  # kopf types it for cluster-scoped kinds too
        memo.adapters(namespace)
        for profile in profiles_in(meta):
            memo.profile(profile)

"""RoleBasedGroups and the StatefulSets that they control: any event wakes the group's reconciler.

The pods of both are told of by a watch of our own (`cluster.known`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kopf

from patio_operator.cluster.kinds import ROLE_BASED_GROUP, STATEFUL_SET
from patio_operator.handlers import Wakers


def register(registry: kopf.OperatorRegistry) -> None:
    """Register the handlers of these kinds."""

    @kopf.on.event(ROLE_BASED_GROUP.group, ROLE_BASED_GROUP.version, ROLE_BASED_GROUP.plural, registry=registry)
    async def on_group(namespace: str | None, name: str, memo: Wakers, **_: Any) -> None:
        assert namespace is not None  # kopf types it for cluster-scoped kinds too
        memo.group(namespace, name)

    @kopf.on.event(STATEFUL_SET.group, STATEFUL_SET.version, STATEFUL_SET.plural, registry=registry)
    async def on_stateful_set(namespace: str | None, meta: Mapping[str, Any], memo: Wakers, **_: Any) -> None:
        assert namespace is not None
        for owner in meta.get("ownerReferences") or []:
            if owner["kind"] == ROLE_BASED_GROUP.kind and owner.get("controller"):
                memo.group(namespace, owner["name"])

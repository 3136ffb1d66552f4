"""RoleBasedGroups, the StatefulSets that they control and the pods of both: any event wakes the group's reconciler."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import kopf

from patio_operator.api import labels
from patio_operator.cluster.kinds import POD, ROLE_BASED_GROUP, STATEFUL_SET
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

    @kopf.on.event(POD.version, POD.plural, labels={labels.GROUP_NAME: kopf.PRESENT}, registry=registry)
    async def on_pod(namespace: str | None, meta: Mapping[str, Any], memo: Wakers, **_: Any) -> None:
        assert namespace is not None
        memo.group(namespace, meta["labels"][labels.GROUP_NAME])

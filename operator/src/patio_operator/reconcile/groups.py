"""Realises RoleBasedGroups: reads a group and what was made of it, lets `groups.plan` decide, applies the plan.

Woken by events of the group, of the StatefulSets it controls, and of any profile. Deleting a group needs nothing
here: what it made has it as its owner. While groups are upstream's controller's (observe mode) nothing is written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from pydantic import ValidationError

from patio_operator import groups
from patio_operator.api import labels
from patio_operator.api.conditions import condition
from patio_operator.api.rolebasedgroup import RoleBasedGroup
from patio_operator.cluster import events
from patio_operator.cluster.api import Cluster, InvalidError, NotFoundError, Object, TerminatingError
from patio_operator.cluster.kinds import (
    BY_KIND,
    CONFIG_MAP,
    PROFILE,
    ROLE_BASED_GROUP,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from patio_operator.reconcile.queue import Key

log = logging.getLogger(__name__)


class GroupReconciler:
    """Works off groups: `reconcile((namespace, name))`."""

    def __init__(self, cluster: Cluster, observing: Callable[[], bool]) -> None:
        """`observing` tells whether groups are upstream's controller's at the moment."""
        self._cluster = cluster
        self._observing = observing

    async def reconcile(self, key: Key) -> None:
        """Make one pass over a group."""
        if self._observing():
            return
        namespace, name = key
        try:
            body = await self._cluster.get(ROLE_BASED_GROUP, name, namespace)
        except NotFoundError:
            return
        if body["metadata"].get("deletionTimestamp"):
            return
        now = datetime.now(UTC)
        try:
            group = RoleBasedGroup.model_validate(body)
        except ValidationError as error:
            await self._write_status(body, _refused(body, "InvalidSpec", str(error), now))
            return
        children: list[Object] = []
        for kind in (STATEFUL_SET, SERVICE, CONFIG_MAP):
            for child in await self._cluster.list_all(kind, namespace, f"{labels.GROUP_NAME}={name}"):
                children.append(_typed(kind, child))
        profiles = {one["metadata"]["name"] for one in await self._cluster.list_all(PROFILE)}
        plan = groups.plan(group, children, profiles, now)
        strangers = await self._unlabelled(plan.applies, children, namespace)
        if strangers:
            plan = groups.plan(group, [*children, *strangers], profiles, now)
        try:
            for wanted in plan.applies:
                await self._cluster.apply(BY_KIND[wanted["apiVersion"], wanted["kind"]], wanted)
        except TerminatingError:
            return
        except InvalidError as error:
            await events.record(self._cluster, body, "Warning", "Rejected", error.message)
            await self._write_status(body, _refused(body, "Rejected", error.message, now))
            raise
        for ref in plan.deletes:
            await self._cluster.delete(BY_KIND[ref.api_version, ref.kind], ref.name, namespace, ref.uid)
        for happened in plan.events:
            await events.record(self._cluster, body, happened.type, happened.reason, happened.message)
        await self._write_status(body, plan.status)

    async def _unlabelled(self, applies: Iterable[Object], children: Iterable[Object], namespace: str) -> list[Object]:
        """Read what has a name that the plan would write to, and no label that says whose it is."""
        known = {(one["kind"], one["metadata"]["name"]) for one in children}
        found: list[Object] = []
        for wanted in applies:
            kind, name = BY_KIND[wanted["apiVersion"], wanted["kind"]], wanted["metadata"]["name"]
            if (kind.kind, name) not in known:
                try:
                    found.append(_typed(kind, await self._cluster.get(kind, name, namespace)))
                except NotFoundError:
                    continue
        return found

    async def _write_status(self, body: Object, after: Object) -> None:
        if after == (body.get("status") or {}):
            return
        metadata = body["metadata"]
        await self._cluster.merge(
            ROLE_BASED_GROUP, metadata["name"], metadata["namespace"], {"status": after}, "status"
        )


def _typed(kind: Kind, child: Object) -> Object:
    """Put back what the API server leaves out of the items of a list."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **child}


def _refused(body: Object, reason: str, message: str, now: datetime) -> Object:
    before = body.get("status") or {}
    generation = body["metadata"]["generation"]
    ready = condition(before.get("conditions") or [], "Ready", "False", reason, message[:1024], generation, now)
    return {
        "observedGeneration": generation,
        "conditions": [ready],
        "roleStatuses": before.get("roleStatuses") or [],
    }

"""Realises RoleBasedGroups: reads a group and what was made of it, lets `groups.plan` decide, carries the plan out.

Woken by events of the group, of the StatefulSets and pods it controls, and of any profile. Deleting a group needs
nothing here: what it made has it as its owner. While groups are upstream's controller's (observe mode) nothing is
written, and nothing deleted but what Patio itself made of a group that is handed over.
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
from patio_operator.cluster.api import (
    Cluster,
    ConflictError,
    InvalidError,
    NotFoundError,
    Object,
    TerminatingError,
)
from patio_operator.cluster.kinds import (
    BY_KIND,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    ENDPOINT_SLICE,
    POD,
    PROFILE,
    ROLE_BASED_GROUP,
    SERVICE,
    STATEFUL_SET,
    Kind,
)
from patio_operator.groups import GroupPlan, Ref, naming
from patio_operator.reconcile.queue import Key

log = logging.getLogger(__name__)

MADE_OF = (STATEFUL_SET, SERVICE, CONFIG_MAP, POD, CONTROLLER_REVISION, ENDPOINT_SLICE)


class GroupReconciler:
    """Works off groups: `reconcile((namespace, name))`."""

    def __init__(self, cluster: Cluster, observing: Callable[[], bool]) -> None:
        """`observing` tells whether groups are upstream's controller's at the moment."""
        self._cluster = cluster
        self._observing = observing

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a group; return in how many seconds to make another one although nothing happens."""
        namespace, name = key
        try:
            body = await self._cluster.get(ROLE_BASED_GROUP, name, namespace)
        except NotFoundError:
            return None
        if body["metadata"].get("deletionTimestamp"):
            return None
        observing = self._observing()
        if observing and (body["metadata"].get("annotations") or {}).get(labels.HAND_OVER) != "true":
            return None
        now = datetime.now(UTC)
        try:
            group = RoleBasedGroup.model_validate(body)
        except ValidationError as error:
            if not observing:
                await self._write_status(body, _refused(body, "InvalidSpec", str(error), now))
            return None
        children: list[Object] = []
        for kind in MADE_OF:
            for child in await self._cluster.list_all(kind, namespace, f"{labels.GROUP_NAME}={name}"):
                children.append(_typed(kind, child))
        if observing:
            for ref in groups.made_by_patio(group, children):
                await self._delete(ref)
            return None
        profiles = {one["metadata"]["name"] for one in await self._cluster.list_all(PROFILE)}
        plan = groups.plan(group, children, profiles, now)
        strangers = await self._unlabelled(plan.applies, children, namespace)
        if strangers:
            plan = groups.plan(group, [*children, *strangers], profiles, now)
        try:
            in_the_way = await self._carry_out(plan, group, body)
        except TerminatingError:
            return None
        except InvalidError as error:
            await events.record(self._cluster, body, "Warning", "Rejected", error.message)
            await self._write_status(body, _refused(body, "Rejected", error.message, now))
            raise
        if in_the_way:
            plan = groups.plan(group, [*children, *in_the_way], profiles, now)
        for ref in plan.deletes:
            await self._delete(ref)
        for happened in plan.events:
            await events.record(self._cluster, body, happened.type, happened.reason, happened.message)
        if plan.status is not None:
            await self._write_status(body, plan.status)
        return None if plan.again_in is None else plan.again_in.total_seconds()

    async def _carry_out(self, plan: GroupPlan, group: RoleBasedGroup, body: Object) -> list[Object]:
        """Do what makes a group; return the pods of others that have the names of ours.

        Raises:
            InvalidError: the API server will not take something as it is.

        """
        namespace = group.metadata.namespace
        for pod in plan.checks:
            await self._check(pod, body)
        for ref in plan.adopts:
            # the UID is a condition: of another pod it cannot be changed
            mine = {"metadata": {"uid": ref.uid, "ownerReferences": [naming.owner(group)]}}
            await self._cluster.merge(BY_KIND[ref.api_version, ref.kind], ref.name, namespace, mine)
        for ref in plan.tear_down:
            await self._delete(ref)
        for wanted in plan.applies:
            await self._apply(wanted, body)
        in_the_way: list[Object] = []
        for pod in plan.creates:
            try:
                await self._cluster.create(POD, pod, namespace)
            except ConflictError:
                in_the_way.append(_typed(POD, await self._cluster.get(POD, pod["metadata"]["name"], namespace)))
        return in_the_way

    async def _check(self, pod: Object, body: Object) -> None:
        """Have the API server look at a pod of a new revision before an old one goes for it."""
        namespace = pod["metadata"]["namespace"]
        try:
            await self._cluster.try_create(POD, pod, namespace, strictly=True)
        except InvalidError as error:
            if "exceeded quota" in error.message:  # it has room when an old pod is gone
                return
            if "strict decoding error" not in error.message:
                raise
            await self._cluster.try_create(POD, pod, namespace)
            await self._tell_of_unknown(body, f"pod {pod['metadata']['name']}", error.message)

    async def _apply(self, wanted: Object, body: Object) -> None:
        kind = BY_KIND[wanted["apiVersion"], wanted["kind"]]
        try:
            await self._cluster.apply(kind, wanted)
        except InvalidError as error:
            if "field not declared in schema" not in error.message:
                raise
            known, dropped = groups.prune(wanted, await self._cluster.schemas(kind.api_version))
            if not dropped:
                raise
            await self._cluster.apply(kind, known)
            await self._tell_of_unknown(body, f"{kind.kind} {wanted['metadata']['name']}", ", ".join(dropped))

    async def _tell_of_unknown(self, body: Object, what: str, fields: str) -> None:
        """Say once for each generation of a group that fields of its templates mean nothing."""
        if (body.get("status") or {}).get("observedGeneration") != body["metadata"]["generation"]:
            message = f"{what}: Kubernetes does not know these fields of the pod template, they are left out: {fields}"
            await events.record(self._cluster, body, "Warning", "NotAsAsked", message)

    async def _delete(self, ref: Ref) -> None:
        try:
            await self._cluster.delete(BY_KIND[ref.api_version, ref.kind], ref.name, ref.namespace, ref.uid)
        except ConflictError:
            return  # another one has the name by now

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

"""Realises RoleBasedGroups: reads a group and what was made of it, plans (`planner`), carries the plan out.

Changes of the group, of the StatefulSets and pods that carry its name, and of profiles that come or go bring a pass.
Deleting a group needs nothing here: what it made has it as its owner. Nothing is written when nothing changed. While
groups are upstream's controller's (observe mode) nothing is written, and nothing deleted but what Patio itself made of
a group that is handed over. What is kept between passes saves requests: losing it costs a repetition that is harmless.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from pydantic import ValidationError

from patio_api import labels
from patio_api.bounded_json import size_of
from patio_api.conditions import next_condition
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_kube import events
from patio_kube.client import (
    ConflictError,
    InvalidError,
    KubeClient,
    NotFoundError,
    Object,
    TerminatingError,
    TooLargeError,
    UnreadableError,
)
from patio_kube.informer import Informer
from patio_kube.resources import (
    BY_KIND,
    CONFIG_MAP,
    CONTROLLER_REVISION,
    ENDPOINT_SLICE,
    POD,
    PROFILE,
    ROLE_BASED_GROUP,
    SERVICE,
    STATEFUL_SET,
    Resource,
)
from patio_kube.runtime.workqueue import Key
from patio_operator.groups import pruning
from patio_operator.groups.caches import CachedGroup
from patio_operator.groups.planner import naming, planner
from patio_operator.groups.planner.plan import ObjectRef, Plan
from patio_operator.groups.planner.snapshot import Snapshot
from patio_operator.telemetry import statuses
from patio_operator.telemetry.object_gauges import ObjectState

log = logging.getLogger(__name__)

MADE_OF = (STATEFUL_SET, SERVICE, CONFIG_MAP, POD, CONTROLLER_REVISION, ENDPOINT_SLICE)
PASS_SECONDS = 1.0
"""Between two passes over a group that changes all the time: a pass lists all that is made of it."""
PASSES_AT_ONCE = 5.0
"""So many may follow each other without that, as while a group is made."""


DEEPEST = 64
"""Levels that a group may have. Fields of pods are some fifteen levels deep."""
LARGE = 5_000
"""Values in a group and what was made of it, above which it is planned in a thread."""
LARGEST = 25_000
"""Values that a group may have. One of ten roles has some two thousand."""
PER_CHILD = 50
"""Values that count for an object which was made of a group, or a pod that it asks for."""
PODS_IN_A_PASS = 100
"""That are created, and that are deleted: a pass over a large group does not keep its worker from the others."""
EVENTS_IN_A_PASS = 20

T = TypeVar("T")

OnStatus = Callable[[str, str, ObjectState | None], None]
"""Takes namespace and name of a group, and what its status says; None: Patio realises no such group."""


class _RejectedError(Exception):
    """Nothing can be planned for a group; the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass
class _Kept:
    """What is remembered of a group."""

    passes: float = PASSES_AT_ONCE
    """That may be made now."""
    counted: float = 0.0
    """When those were counted."""
    profiles: frozenset[str] = frozenset()
    """That it names."""
    applied: dict[tuple[str, str], tuple[str, str, str]] = field(default_factory=dict)
    """By kind and name: UID, digest of what was applied, digest of the fields that are Patio's since."""


class GroupReconciler:
    """Works off groups: `reconcile((namespace, name))`."""

    def __init__(
        self,
        client: KubeClient,
        groups: Informer[CachedGroup],
        profiles: Informer[ClusterEngineRuntimeProfile],
        observing: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        """`observing` tells whether groups are upstream's controller's at the moment; `clock` counts seconds."""
        self._client = client
        self._groups = groups
        self._profiles = profiles
        self._observing = observing
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}
        self.on_status: OnStatus = lambda namespace, name, state: None
        """Is called with what the status of a group says, and when Patio realises no such group any more."""

    def groups_with(self, profile: str) -> list[Key]:
        """Return the groups that named a profile at their last pass."""
        return [key for key, kept in self._kept.items() if profile in kept.profiles]

    def __len__(self) -> int:
        """Return how many groups something is kept of."""
        return len(self._kept)

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a group; return in how many seconds to make another one although nothing happens."""
        namespace, name = key
        observing = self._observing()
        if self._groups.synced_in(namespace):
            cached = self._groups.get(name, namespace)
            if cached is None:
                self._forget(key)
                return None
            if observing:
                self.on_status(namespace, name, None)
                if not cached.handed_over:
                    return None
        kept = self._kept.setdefault(key, _Kept())
        wait = self._wait(kept)
        if wait > 0:
            return wait
        try:
            body = await self._client.get(ROLE_BASED_GROUP, name, namespace)
        except NotFoundError:
            self._forget(key)
            return None
        except UnreadableError as error:
            await events.record(self._client, _reference(key), "Warning", "Unreadable", error.message)
            return None
        if body["metadata"].get("deletionTimestamp"):
            return None
        if observing and (body["metadata"].get("annotations") or {}).get(labels.HAND_OVER) != "true":
            return None
        started = self._clock()
        try:
            return await self._pass(body, kept, observing=observing)
        finally:
            # A pass that takes long, as behind an API server that is slow, counts as the passes it could have been.
            kept.passes -= max(0.0, (self._clock() - started) / PASS_SECONDS - 1.0)

    def _forget(self, key: Key) -> None:
        self._kept.pop(key, None)
        namespace, name = key
        self.on_status(namespace, name, None)

    def _wait(self, kept: _Kept) -> float:
        """Return the seconds until a pass may be made; count it when it may be made now."""
        now = self._clock()
        kept.passes = min(PASSES_AT_ONCE, kept.passes + (now - kept.counted) / PASS_SECONDS)
        kept.counted = now
        if kept.passes < 1.0:
            return (1.0 - kept.passes) * PASS_SECONDS
        kept.passes -= 1.0
        return 0.0

    async def _pass(self, body: Object, kept: _Kept, *, observing: bool) -> float | None:
        namespace, now = body["metadata"]["namespace"], self._client.now()
        size = await asyncio.to_thread(size_of, {"spec": body.get("spec"), "metadata": body["metadata"]}, DEEPEST)
        try:
            if size is None:
                raise _RejectedError("InvalidSpec", "a field is nested too deeply, or is not valid text")
            if size > LARGEST:
                raise _RejectedError(
                    "TooLarge", f"the group has {size} fields and values, more than {LARGEST}: split it"
                )
            group = await _decided(size, RoleBasedGroup.model_validate, body)
            kept.profiles = frozenset(
                engine_runtime.profile_name for role in group.spec.roles for engine_runtime in role.engine_runtimes
            )
            children = await self._children(group)
            size += PER_CHILD * (len(children) + sum(role.replicas for role in group.spec.roles))
            if observing:
                made = planner.made_by_patio(group, children)
                for ref in made[:PODS_IN_A_PASS]:
                    await self._delete(ref)
                return PASS_SECONDS if len(made) > PODS_IN_A_PASS else None
            profiles = await self._existing(kept.profiles)
            plan = await _decided(size, planner.plan, Snapshot(group, children, profiles, now))
            strangers = await self._unlabelled(plan.applies, children, namespace)
            if strangers:
                plan = await _decided(size, planner.plan, Snapshot(group, [*children, *strangers], profiles, now))
        except (ValidationError, TooLargeError, _RejectedError) as error:
            if not observing:
                await self._write_status(body, _rejected_status(body, *_why(error), now))
            return None
        except InvalidError as error:
            if not observing:
                await self._write_status(body, _rejected_status(body, "Rejected", error.message, now))
            raise
        more = max(len(plan.creates), len(plan.tear_down), len(plan.deletes)) > PODS_IN_A_PASS
        try:
            in_the_way = await self._carry_out(plan, group, body, children, kept)
        except TerminatingError:
            return None
        except InvalidError as error:
            await events.record(self._client, body, "Warning", "Rejected", error.message)
            await self._write_status(body, _rejected_status(body, "Rejected", error.message, now))
            raise
        if in_the_way:
            plan = await _decided(size, planner.plan, Snapshot(group, [*children, *in_the_way], profiles, now))
        for ref in plan.deletes[:PODS_IN_A_PASS]:
            await self._delete(ref)
        for happened in plan.events[:EVENTS_IN_A_PASS]:
            await events.record(self._client, body, happened.type, happened.reason, happened.message)
        if plan.status is None:
            self.on_status(namespace, body["metadata"]["name"], None)
        wrote = plan.status is not None and await self._write_status(body, plan.status)
        requeue_after = (
            [PASS_SECONDS] if wrote or more else []
        )  # some of a plan waits until a status says what is to come
        requeue_after += [] if plan.requeue_at is None else [(plan.requeue_at - now).total_seconds()]
        return min(requeue_after, default=None)

    async def _children(self, group: RoleBasedGroup) -> list[Object]:
        """List what carries a group's name, of every kind that groups are made of."""
        selector = f"{labels.GROUP_NAME}={group.metadata.name}"
        found = await asyncio.gather(
            *(
                self._client.list_all(kind, group.metadata.namespace, selector, keep=partial(_reduced, kind))
                for kind in MADE_OF
            ),
            return_exceptions=True,
        )
        children: list[Object] = []
        for listed in found:
            if isinstance(listed, BaseException):
                raise listed
            children += listed
        return children

    async def _existing(self, named: Iterable[str]) -> set[str]:
        """Return those of some profiles that there are. One that is not known may have come a moment ago."""
        found: set[str] = set()
        for name in named:
            if not self._profiles.synced or self._profiles.get(name) is None:
                try:
                    await self._client.get(PROFILE, name)
                except NotFoundError:
                    continue
                except UnreadableError:
                    pass  # it exists; pods that ask for it get the error
            found.add(name)
        return found

    async def _carry_out(
        self, plan: Plan, group: RoleBasedGroup, body: Object, children: Iterable[Object], kept: _Kept
    ) -> list[Object]:
        """Do what makes a group; return the pods of others that have the names of ours.

        Raises:
            InvalidError: the API server will not take something as it is.

        """
        namespace = group.metadata.namespace
        for pod in plan.checks:
            await self._check(pod, body)
        for ref in plan.adopts:
            # the UID is a condition: of another pod it cannot be changed
            patch = {"metadata": {"uid": ref.uid, "ownerReferences": [naming.owner(group)]}}
            await self._client.merge(BY_KIND[ref.api_version, ref.kind], ref.name, namespace, patch)
        for ref in plan.tear_down[:PODS_IN_A_PASS]:
            await self._delete(ref)
        existing = {(child["kind"], child["metadata"]["name"]): child for child in children}
        applied: dict[tuple[str, str], tuple[str, str, str]] = {}
        for wanted in plan.applies:
            place = wanted["kind"], wanted["metadata"]["name"]
            digest, live = _digest(wanted), existing.get(place)
            if live is not None and kept.applied.get(place) == (live["metadata"]["uid"], digest, _applied_digest(live)):
                applied[place] = kept.applied[place]
                continue
            answer = await self._apply(wanted, body)
            if _applied_digest(answer):
                applied[place] = answer["metadata"]["uid"], digest, _applied_digest(answer)
        kept.applied = applied
        in_the_way: list[Object] = []
        for pod in plan.creates[:PODS_IN_A_PASS]:
            try:
                await self._client.create(POD, pod, namespace)
            except ConflictError:
                in_the_way.append(_typed(POD, await self._client.get(POD, pod["metadata"]["name"], namespace)))
        return in_the_way

    async def _check(self, pod: Object, body: Object) -> None:
        """Have the API server look at a pod of a new revision before an old one goes for it."""
        namespace = pod["metadata"]["namespace"]
        try:
            await self._client.try_create(POD, pod, namespace, strictly=True)
        except InvalidError as error:
            if "exceeded quota" in error.message:  # it has room when an old pod is gone
                return
            if "strict decoding error" not in error.message:
                raise
            await self._client.try_create(POD, pod, namespace)
            await self._record_unknown_fields(body, f"pod {pod['metadata']['name']}", error.message)

    async def _apply(self, wanted: Object, body: Object) -> Object:
        kind = BY_KIND[wanted["apiVersion"], wanted["kind"]]
        try:
            return await self._client.apply(kind, wanted)
        except InvalidError as error:
            if "field not declared in schema" not in error.message:
                raise
            pruned, dropped = pruning.prune(wanted, await self._client.schemas(kind.api_version))
            if not dropped:
                raise
            answer = await self._client.apply(kind, pruned)
            await self._record_unknown_fields(body, f"{kind.kind} {wanted['metadata']['name']}", ", ".join(dropped))
            return answer

    async def _record_unknown_fields(self, body: Object, what: str, fields: str) -> None:
        """Say once for each generation of a group that fields of its templates mean nothing."""
        if (body.get("status") or {}).get("observedGeneration") != body["metadata"]["generation"]:
            message = (
                f"{what}: Kubernetes does not know these fields of the pod template, and Patio drops them: {fields}"
            )
            await events.record(self._client, body, "Warning", "DiffersFromSpec", message)

    async def _delete(self, ref: ObjectRef) -> None:
        try:
            await self._client.delete(BY_KIND[ref.api_version, ref.kind], ref.name, ref.namespace, ref.uid)
        except ConflictError:
            return  # another one has the name by now

    async def _unlabelled(self, applies: Iterable[Object], children: Iterable[Object], namespace: str) -> list[Object]:
        """Read what has a name that the plan would write to, and no label that says whose it is."""
        listed = {(child["kind"], child["metadata"]["name"]) for child in children}
        found: list[Object] = []
        for wanted in applies:
            kind, name = BY_KIND[wanted["apiVersion"], wanted["kind"]], wanted["metadata"]["name"]
            if (kind.kind, name) not in listed:
                try:
                    found.append(_typed(kind, await self._client.get(kind, name, namespace)))
                except NotFoundError:
                    continue
        return found

    async def _write_status(self, body: Object, after: Object) -> bool:
        """Write a status if it changed; return whether it did."""
        self.on_status(
            body["metadata"]["namespace"], body["metadata"]["name"], statuses.of_group(body.get("spec") or {}, after)
        )
        if after == (body.get("status") or {}):
            return False
        metadata = body["metadata"]
        await self._client.merge(ROLE_BASED_GROUP, metadata["name"], metadata["namespace"], {"status": after}, "status")
        return True


async def _decided(size: int, decide: Callable[..., T], *arguments: Any) -> T:
    """Call a pure function; in a thread when what it is called with is large, so that no other task waits for it."""
    if size <= LARGE:
        return decide(*arguments)
    return await asyncio.to_thread(decide, *arguments)


def _reduced(kind: Resource, child: Object) -> Object:
    """Return what a plan and `_applied_digest` read of an object: a group may have a thousand pods, and no
    plan reads their spec."""
    metadata = dict(child["metadata"])
    metadata["managedFields"] = [
        {"manager": entry.get("manager"), "operation": entry.get("operation")}
        | ({"fieldsV1": _digest(entry.get("fieldsV1"))} if entry.get("manager") == labels.FIELD_MANAGER else {})
        for entry in metadata.get("managedFields") or []
    ]
    reduced = {**_typed(kind, child), "metadata": metadata}
    if kind is POD:
        metadata.pop("annotations", None)
        reduced.pop("spec", None)
    return reduced


def _applied_digest(body: Object) -> str:
    """Return a digest of the fields that are as Patio applied them; empty when there are none.

    A client that changes a field that Patio applied takes it away from Patio: as long as the fields are the same ones,
    each has the value that was applied.
    """
    for entry in body["metadata"].get("managedFields") or []:
        if entry.get("manager") == labels.FIELD_MANAGER and entry.get("operation") == "Apply":
            fields = entry.get("fieldsV1")
            return fields if isinstance(fields, str) else _digest(fields)
    return ""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _reference(key: Key) -> Object:
    """Return a group as an event about it wants it, when nothing else of it can be read."""
    namespace, name = key
    return {
        "apiVersion": ROLE_BASED_GROUP.api_version,
        "kind": ROLE_BASED_GROUP.kind,
        "metadata": {"name": name, "namespace": namespace},
    }


def _why(error: Exception) -> tuple[str, str]:
    """Return reason and message of a group of which no plan can be made."""
    if isinstance(error, TooLargeError):
        return "TooManyObjects", error.message
    if isinstance(error, _RejectedError):
        return error.reason, str(error)
    return "InvalidSpec", str(error)


def _typed(kind: Resource, child: Object) -> Object:
    """Put back what the API server leaves out of the items of a list."""
    return {"apiVersion": kind.api_version, "kind": kind.kind, **child}


def _rejected_status(body: Object, reason: str, message: str, now: datetime) -> Object:
    before = body.get("status") or {}
    generation = body["metadata"]["generation"]
    ready = next_condition(before.get("conditions") or [], "Ready", "False", reason, message[:1024], generation, now)
    return {
        "observedGeneration": generation,
        "conditions": [ready],
        "roleStatuses": before.get("roleStatuses") or [],
    }

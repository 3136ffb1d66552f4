"""Leader-worker roles: which pods to make and which to delete now, so that every instance is whole and of the right
revision.

Used by `planner`, for the roles whose pods no Kubernetes controller makes (docs/decisions/0009 says why). An instance
is torn down and made as a whole: when the role has a new revision (`api.rolling_update` says how many at once), and
when one of its pods restarted (`restart_state` says when). One that serves is ended from its leader on: requests under
way need the workers until the leader has ended them. Pods are never changed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from patio_api import labels
from patio_api.conditions import find, time_of
from patio_api.events import Event
from patio_api.rolebasedgroup import Role, RoleBasedGroup
from patio_api.rolling_update import limits_of
from patio_operator.groups.planner import naming, restart_state, revisions, rolling_updates
from patio_operator.groups.planner.plan import ObjectRef, ref_of
from patio_operator.groups.planner.restart_state import RestartState
from patio_operator.groups.planner.revisions import Revision
from patio_operator.groups.planner.status import Count

Object = dict[str, Any]
Child = Mapping[str, Any]


@dataclass(frozen=True)
class InstancesPlan:
    """What to do for a leader-worker role."""

    count: Count
    revision: Object
    """The ControllerRevision to apply before its pods are made."""
    creates: tuple[Object, ...] = ()
    tear_down: tuple[ObjectRef, ...] = ()
    """Pods to delete."""
    forget: tuple[ObjectRef, ...] = ()
    """ControllerRevisions that no pod needs any more."""
    checks: tuple[Object, ...] = ()
    """Pods of a new revision, to be tried before anything is torn down for it."""
    restart_states: Mapping[int, RestartState] = field(default_factory=dict)
    requeue_after: timedelta | None = None
    """When something is due that no event tells of."""
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class _Instance:
    """The pods of an instance, by position. Those on their way out apart."""

    index: int
    pods: Mapping[int, Child]
    leaving: tuple[Child, ...]

    @property
    def revisions(self) -> set[str]:
        return {_revision(pod) for pod in self.pods.values()}

    def is_whole(self, size: int) -> bool:
        return set(self.pods) == set(range(size)) and len(self.revisions) == 1

    def is_ready(self, size: int) -> bool:
        return self.is_whole(size) and all(rolling_updates.is_ready(pod) for pod in self.pods.values())

    @property
    def leader_leaving(self) -> Child | None:
        """The leader, while it ends."""
        return next((pod for pod in self.leaving if _position(pod) == 0), None)


def plan(
    group: RoleBasedGroup,
    role: Role,
    pods: Iterable[Child],
    stored: Sequence[Child],
    restart_states: Mapping[int, RestartState],
    now: datetime,
) -> InstancesPlan:
    """Return what to do for a leader-worker role now.

    Args:
        group: its group.
        role: the role.
        pods: all pods of the role that the group controls.
        stored: its ControllerRevisions.
        restart_states: what the last pass left.
        now: UTC.

    """
    return _Pass(group, role, pods, stored, restart_states, now).plan()


class _Pass:
    """One pass over a role. Collects what to do; makes no request."""

    def __init__(
        self,
        group: RoleBasedGroup,
        role: Role,
        pods: Iterable[Child],
        stored: Sequence[Child],
        restart_states: Mapping[int, RestartState],
        now: datetime,
    ) -> None:
        assert role.leader_worker_pattern is not None
        self._group, self._role, self._now = group, role, now
        self._wanted = revisions.wanted(group, role)
        self._stored = sorted(stored, key=lambda child: int(child["revision"]))
        self._revisions = {
            revision.hash: revision for revision in (*map(revisions.from_object, self._stored), self._wanted)
        }
        self._rollout = limits_of(role)
        self._policy = restart_state.policy(role.leader_worker_pattern)
        self._instances = _sorted(pods, role.replicas)
        self._restart_states = {index: restart_states.get(index, RestartState()) for index in range(role.replicas)}
        self._to_delete: dict[str, Child] = {}
        self._waiting: set[int] = set()
        self._requeue_after: list[timedelta] = []
        self._events: list[Event] = []

    def plan(self) -> InstancesPlan:
        for index in sorted(self._instances):
            if index not in self._restart_states:
                self._end(index)
        for index in range(self._role.replicas):
            if not self._is_stale(index):
                self._mind_restarts(index)
        self._roll()
        creates = tuple(pod for index in range(self._role.replicas) for pod in self._missing(index))
        self._remember()
        number = next((int(child["revision"]) for child in self._stored if _revision(child) == self._wanted.hash), None)
        newest = int(self._stored[-1]["revision"]) if self._stored else 0
        return InstancesPlan(
            count=self._count(),
            revision=revisions.to_object(self._group, self._role, self._wanted, number or newest + 1),
            creates=creates,
            tear_down=tuple(ref_of(pod) for pod in self._to_delete.values()),
            forget=tuple(ref_of(child) for child in self._unneeded()),
            checks=() if number else tuple(self._samples()),
            restart_states=self._restart_states,
            requeue_after=min(self._requeue_after, default=None),
            events=tuple(self._events),
        )

    def _target(self, index: int) -> Revision:
        """Return the revision that a pod of an instance would be made from now."""
        pods = self._instances[index].pods
        if pods:
            return self._revisions.get(_revision(pods[min(pods)]), self._wanted)
        if index < self._rollout.partition and self._stored:
            return self._revisions[_revision(self._stored[0])]  # the oldest is kept for those that a rollout spares
        return self._wanted

    def _is_stale(self, index: int) -> bool:
        """Tell whether an instance has to be recreated for another revision."""
        current_revisions = self._instances[index].revisions
        return len(current_revisions) > 1 or (
            index >= self._rollout.partition and bool(current_revisions - {self._wanted.hash})
        )

    def _is_available(self, index: int) -> bool:
        """Tell whether an instance has been ready for as long as the role asks; sees to it that it is asked again."""
        instance = self._instances[index]
        if not instance.is_ready(self._target(index).size):
            return False
        if not self._role.min_ready_seconds:
            return True
        since = max(time_of(find(pod["status"], "Ready")["lastTransitionTime"]) for pod in instance.pods.values())
        missing = since + timedelta(seconds=self._role.min_ready_seconds) - self._now
        if missing > timedelta(0):
            self._requeue_after.append(missing)
            return False
        return True

    def _tear_down(self, index: int) -> None:
        """Delete all pods of an instance at once."""
        self._delete(index, self._instances[index].pods.values())

    def _end(self, index: int) -> None:
        """Delete the leader of an instance that serves, and the others when it is gone, or should be."""
        instance = self._instances[index]
        leaving = instance.leader_leaving
        if leaving is not None:
            left = time_of(leaving["metadata"]["deletionTimestamp"]) - self._now
            if left > timedelta(0):
                self._requeue_after.append(left)
                self._delete(index, ())
                return
        serves = instance.is_ready(self._target(index).size)
        self._delete(index, [instance.pods[0]] if serves else instance.pods.values())

    def _delete(self, index: int, pods: Iterable[Child]) -> None:
        self._to_delete |= {pod["metadata"]["name"]: pod for pod in pods}
        if index in self._restart_states:
            self._restart_states[index] = replace(self._restart_states[index], ready=False, restarts=0)

    def _roll(self) -> None:
        """Recreate stale instances: those that serve no requests at once, the others from the highest index down, as
        many at a time as may be unavailable."""
        available = [index for index in range(self._role.replicas) if self._is_available(index)]
        stale = [index for index in range(self._role.replicas) if self._is_stale(index)]
        for index in stale:
            if not self._instances[index].is_ready(self._target(index).size):
                self._end(index)
        spare = self._rollout.max_unavailable - (self._role.replicas - len(available))
        for index in sorted((stale_index for stale_index in stale if stale_index in available), reverse=True)[
            : max(0, spare)
        ]:
            self._end(index)

    def _mind_restarts(self, index: int) -> None:
        instance, before = self._instances[index], self._restart_states[index]
        if not instance.pods:
            return
        failed = [pod for pod in instance.pods.values() if _is_over(pod)]
        if self._policy.type == restart_state.RECREATE and not before.ready and instance.leader_leaving is not None:
            self._tear_down(index)  # it was ended and is wanted again after all: its workers belong to the old leader
            return
        if self._policy.type != restart_state.RECREATE or not before.ready:
            for pod in failed:
                self._to_delete[pod["metadata"]["name"]] = pod
            return
        target = self._target(index)
        lost = sorted(set(range(target.size)) - set(instance.pods))
        restarts = self._restarts(instance)
        if not (failed or lost or restarts > before.restarts):
            return
        after, wait = restart_state.recreated(before, self._policy, self._now)
        if wait:
            self._requeue_after.append(wait)
            self._waiting.add(index)
            return
        self._tear_down(index)
        self._restart_states[index] = after
        name = naming.instance(self._group, self._role, index)
        why = (
            f"pod {name}-{lost[0]} is gone"
            if lost
            else f"pod {failed[0]['metadata']['name']} has ended"
            if failed
            else self._last_restarted(instance)
        )
        self._events.append(
            Event(
                "Warning",
                "InstanceRecreated",
                f"Recreating all pods of instance {name}: {why} (attempt {after.recreations})",
            )
        )

    def _restarts(self, instance: _Instance) -> int:
        """Count the restarts of the user's containers: what admission adds may restart alone."""
        return sum(status["restartCount"] for _, status in self._statuses(instance))

    def _last_restarted(self, instance: _Instance) -> str:
        """Say which of the user's containers ended last and was started again."""

        def ended(status: Object) -> str:
            return str(((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or "")

        restarted = [(pod, status) for pod, status in self._statuses(instance) if status["restartCount"]]
        pod, status = max(restarted, key=lambda item: ended(item[1]))
        return f"container {status['name']} of pod {pod['metadata']['name']} restarted"

    def _statuses(self, instance: _Instance) -> Iterator[tuple[Child, Object]]:
        """Yield the statuses of the user's containers."""
        for pod in instance.pods.values():
            revision = self._revisions.get(_revision(pod))
            template = {} if revision is None else revision.worker if _position(pod) else revision.leader
            names = {container["name"] for container in (template.get("spec") or {}).get("containers") or []}
            for status in (pod.get("status") or {}).get("containerStatuses") or []:
                if status["name"] in names:
                    yield pod, status

    def _missing(self, index: int) -> Iterator[Object]:
        """Yield the pods that an instance lacks, once none of its pods is being deleted."""
        instance = self._instances[index]
        if instance.leaving or index in self._waiting:
            return
        if any(pod["metadata"]["name"] in self._to_delete for pod in instance.pods.values()):
            return
        target = self._target(index)
        for position in range(target.size):
            if position not in instance.pods:
                yield _pod(self._group, self._role, target, index, position)

    def _remember(self) -> None:
        for index, before in self._restart_states.items():
            instance = self._instances[index]
            torn_down = any(pod["metadata"]["name"] in self._to_delete for pod in instance.pods.values())
            if not before.ready and not torn_down and instance.is_ready(self._target(index).size):
                self._restart_states[index] = replace(before, ready=True, restarts=self._restarts(instance))
            elif before.ready and not instance.pods:
                self._restart_states[index] = replace(before, ready=False, restarts=0)

    def _count(self) -> Count:
        existing = [instance for instance in self._instances.values() if instance.pods]
        return Count(
            wanted=self._role.replicas,
            replicas=len(existing),
            ready=sum(instance.is_ready(self._target(instance.index).size) for instance in existing),
            updated=sum(
                instance.is_whole(self._wanted.size) and instance.revisions == {self._wanted.hash}
                for instance in existing
            ),
            exists=bool(self._stored or existing),
            current=True,
        )

    def _unneeded(self) -> Iterator[Child]:
        everywhere = all(
            self._instances[index].is_whole(self._wanted.size)
            and self._instances[index].revisions == {self._wanted.hash}
            for index in range(self._role.replicas)
        )
        used = {
            _revision(pod)
            for instance in self._instances.values()
            for pod in (*instance.pods.values(), *instance.leaving)
        }
        for position, child in enumerate(self._stored):
            oldest = position == 0 and not everywhere
            if _revision(child) != self._wanted.hash and _revision(child) not in used and not oldest:
                yield child

    def _samples(self) -> Iterator[Object]:
        for position in range(min(self._wanted.size, 2)):
            sample = _pod(self._group, self._role, self._wanted, 0, position)
            sample["metadata"]["name"] += f"-{self._wanted.hash}"
            yield sample


def _sorted(pods: Iterable[Child], replicas: int) -> dict[int, _Instance]:
    """Return the instances that there are or should be, by index."""
    found: dict[int, tuple[dict[int, Child], list[Child]]] = {index: ({}, []) for index in range(replicas)}
    for pod in pods:
        present, leaving = found.setdefault(_index(pod), ({}, []))
        if "deletionTimestamp" in pod["metadata"]:
            leaving.append(pod)
        else:
            present[_position(pod)] = pod
    return {index: _Instance(index, present, tuple(leaving)) for index, (present, leaving) in found.items()}


def _pod(group: RoleBasedGroup, role: Role, revision: Revision, index: int, position: int) -> Object:
    """Return a pod as it is created."""
    template = copy.deepcopy(dict(revision.worker if position else revision.leader))
    name = f"{naming.instance(group, role, index)}-{position}"
    spec = template["spec"]
    if spec.get("subdomain") == naming.service(group, role):
        spec["hostname"] = name
    member = naming.member_labels(group, role, index, position, revision.hash)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **template["metadata"],
            "name": name,
            "namespace": group.metadata.namespace,
            "labels": {**template["metadata"]["labels"], **member},
            "ownerReferences": [naming.owner(group)],
        },
        "spec": spec,
    }


def is_member(pod: Child) -> bool:
    """Tell whether a pod carries what `plan` reads from it."""
    own = pod["metadata"].get("labels") or {}
    return all(own.get(key, "").isdecimal() for key in (labels.ROLE_INSTANCE_INDEX, labels.COMPONENT_INDEX))


def _index(pod: Child) -> int:
    return int(pod["metadata"]["labels"][labels.ROLE_INSTANCE_INDEX])


def _position(pod: Child) -> int:
    return int(pod["metadata"]["labels"][labels.COMPONENT_INDEX])


def _revision(child: Child) -> str:
    revision: str = child["metadata"]["labels"].get(labels.POD_REVISION, "")
    return revision


def _is_over(pod: Child) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")

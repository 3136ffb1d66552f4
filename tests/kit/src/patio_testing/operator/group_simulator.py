"""A namespace for the planner of groups: carries plans out as the API server and the kubelets would, step by step."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.groups.planner import planner
from patio_operator.groups.planner.plan import ObjectRef, Plan
from patio_operator.groups.planner.snapshot import Snapshot

Object = dict[str, Any]

NEW, OLD = "rbg.workloads.x-k8s.io/", "rolebasedgroup.workloads.x-k8s.io/"
WRITTEN = [{"manager": "patio-operator", "operation": "Apply"}]
START = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)
GRACE = timedelta(seconds=30)
"""How long a pod may take to end."""


def leader_worker(
    name: str = "multi", *, replicas: int = 1, size: int = 2, image: str = "a:1", **fields: Any
) -> Object:
    """A leader-worker role; `pattern` are further fields of its pattern, others are the role's."""
    pattern = {"size": size, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}}
    pattern |= fields.pop("pattern", {})
    return {"name": name, "replicas": replicas, "leaderWorkerPattern": pattern} | fields


def a_group(*roles: Object, generation: int = 1, status: Object | None = None, **metadata: Any) -> RoleBasedGroup:
    """A group `g` in `team`."""
    return RoleBasedGroup.model_validate(
        {
            "metadata": {"name": "g", "namespace": "team", "uid": "uid-g", "generation": generation} | metadata,
            "spec": {"roles": list(roles or (leader_worker(),))},
            "status": status or {},
        }
    )


class GroupSimulator:
    """What there is of a group, and the time. Pods that are deleted leave when they are told to."""

    def __init__(self, *roles: Object, **metadata: Any) -> None:
        self.now = START
        self.objects: dict[tuple[str, str], Object] = {}
        self.status: Object = {}
        self.metadata = metadata
        self.roles = roles
        self.events: list[str] = []
        self.messages: list[str] = []
        self._uids = itertools.count()
        self._generation = 0

    def edit(self, *roles: Object) -> None:
        """Change the group's roles."""
        self.roles = roles

    def plan(self) -> Plan:
        """Return what the planner wants now."""
        group = a_group(*self.roles, status=self.status, **self.metadata)
        return planner.plan(Snapshot(group, copy.deepcopy(list(self.objects.values())), {"patio"}, self.now))

    def step(self) -> Plan:
        """Plan and carry out once."""
        plan = self.plan()
        for ref in plan.tear_down:
            self._delete(ref)
        for applied in plan.applies:
            key = (applied["kind"], applied["metadata"]["name"])
            before = self.objects.get(key, {"metadata": {"uid": f"uid-{next(self._uids)}"}})
            merged = copy.deepcopy(applied)
            merged["metadata"]["uid"] = before["metadata"]["uid"]
            merged["metadata"]["managedFields"] = WRITTEN
            self.objects[key] = merged
        for applied in plan.creates:
            key = ("Pod", applied["metadata"]["name"])
            assert key not in self.objects, f"{key} exists"
            pod = copy.deepcopy(applied)
            pod["metadata"]["uid"] = f"uid-{next(self._uids)}"
            pod["metadata"]["managedFields"] = WRITTEN
            self.objects[key] = pod
        for ref in plan.deletes:
            self._delete(ref)
        self.events += [event.reason for event in plan.events]
        self.messages += [event.message for event in plan.events]
        if plan.status is not None:
            self.status = plan.status
        return plan

    def _delete(self, ref: ObjectRef) -> None:
        existing = self.objects.get((ref.kind, ref.name))
        if existing is None or existing["metadata"]["uid"] != ref.uid:
            return
        if ref.kind == "Pod":
            existing["metadata"].setdefault("deletionTimestamp", (self.now + GRACE).strftime("%Y-%m-%dT%H:%M:%SZ"))
        else:
            del self.objects[ref.kind, ref.name]

    def pods(self) -> dict[str, Object]:
        """Return the pods that are there and stay, by name."""
        return {
            name: body
            for (kind, name), body in sorted(self.objects.items())
            if kind == "Pod" and "deletionTimestamp" not in body["metadata"]
        }

    def leaving(self) -> list[str]:
        """Return the names of the pods on their way out."""
        return [name for kind, name in sorted(self.objects) if kind == "Pod" and name not in self.pods()]

    def go(self) -> None:
        """Let deleted pods end."""
        for name in self.leaving():
            del self.objects["Pod", name]

    def make_ready(self, selects: Callable[[Object], bool] = lambda _: True) -> None:
        """Make pods ready that are not."""
        for name, pod in self.pods().items():
            if selects(pod) and "status" not in pod:
                pod["status"] = {
                    "phase": "Running",
                    "podIP": f"10.0.0.{int(pod['metadata']['uid'].removeprefix('uid-')) % 200}",
                    "conditions": [
                        {
                            "type": "Ready",
                            "status": "True",
                            "lastTransitionTime": self.now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                        }
                    ],
                    "containerStatuses": [{"name": "main", "restartCount": 0}],
                }
                self.objects["Pod", name] = pod

    def restart(self, name: str, container: str = "main") -> None:
        """Restart a container of a pod."""
        statuses = self.objects["Pod", name]["status"]["containerStatuses"]
        status = next((entry for entry in statuses if entry["name"] == container), None)
        if status is None:
            status = {"name": container, "restartCount": 0}
            statuses.append(status)
        status["restartCount"] += 1
        status["lastState"] = {"terminated": {"finishedAt": self.now.strftime("%Y-%m-%dT%H:%M:%SZ")}}

    def settle(self, rounds: int = 60) -> None:
        """Go on until nothing changes any more: pods that are made become ready, those that are deleted end."""
        for _ in range(rounds):
            before = copy.deepcopy((self.objects, self.status))
            plan = self.step()
            self.go()
            self.make_ready()
            if plan.requeue_at is not None:
                self.now = plan.requeue_at
            elif before == (self.objects, self.status):
                return
        raise AssertionError(f"not settled: {self.status}")

    def images(self) -> dict[str, str]:
        """Return the image of each pod."""
        return {name: str(pod["spec"]["containers"][0]["image"]) for name, pod in self.pods().items()}

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += timedelta(seconds=seconds)

    def names(self, kind: str) -> list[str]:
        """Return the names of the objects of a kind."""
        return [name for existing_kind, name in sorted(self.objects) if existing_kind == kind]

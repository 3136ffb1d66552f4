"""The plan for a ModelEndpoint: `plan(snapshot)`. Pure.

Finds what keeps it from being made (`_problems`), puts its workers together (`workers`), decides how many each revision
has (`rollout`), and turns that into objects (`objects`) and a status (`status`). A problem that blocks keeps the new
revision from being made; workers that are there stay as they are, and go on answering.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from patio_api.durations import length_of
from patio_operator.modelendpoints import validation
from patio_operator.modelendpoints.planner import claims, naming, objects, rollout, workers
from patio_operator.modelendpoints.planner.plan import Apply, Delete, Plan, Resize
from patio_operator.modelendpoints.planner.snapshot import GroupSupport, PodState, Snapshot
from patio_operator.modelendpoints.planner.status import Findings, Problem, first_blocking, status
from patio_operator.modelendpoints.planner.workers import GroupState


def plan(snapshot: Snapshot) -> Plan:
    """Return what to do for a ModelEndpoint; nothing for one that is being deleted, as its owner references do it."""
    endpoint = snapshot.endpoint
    if endpoint.metadata.deletion_timestamp is not None:
        return Plan()
    found = validation.problems(endpoint)
    problems = (Problem("InvalidSpec", validation.sentence(found)),) if found else tuple(_problems(snapshot))
    revision = naming.revision(endpoint)
    states = [_observed(snapshot, place) for place in range(len(snapshot.groups)) if not snapshot.groups[place].leaving]
    current = next((state for state in states if state.group.revision == revision), None)
    old = tuple(
        sorted((state for state in states if state is not current), key=lambda s: (s.group.created, s.group.name))
    )
    desired = endpoint.desired_workers
    own = tuple(name for name in endpoint.names if name not in claims.taken(endpoint, snapshot.claims))
    blocked = first_blocking(problems) is not None
    wanted = rollout.targets(desired, current, old)
    findings = Findings(desired, current, old, problems, None if blocked else wanted.stopped_by, own)
    replicas = _first_replicas(snapshot)
    if blocked:
        return Plan(replicas=replicas, status=status(snapshot, findings))
    applies, resizes = _changes(snapshot, current, old, wanted)
    return Plan(
        replicas=replicas,
        applies=applies,
        resizes=resizes,
        deletes=tuple(_deletes(old, wanted)),
        status=status(snapshot, findings),
        requeue_at=_next_look(snapshot, states),
    )


def _observed(snapshot: Snapshot, place: int) -> GroupState:
    endpoint = snapshot.endpoint
    grace = length_of(endpoint.spec.workers.loading_grace)
    return workers.observe(snapshot.groups[place], snapshot.pods, snapshot.now, grace)


def _problems(snapshot: Snapshot) -> Iterator[Problem]:
    endpoint = snapshot.endpoint
    taken = claims.taken(endpoint, snapshot.claims)
    if endpoint.model_name in taken:
        holder = taken[endpoint.model_name]
        yield Problem(
            "NameTaken",
            f"The name {endpoint.model_name!r} is that of the older ModelEndpoint {holder}: give this one another "
            "model.name, or delete the other one.",
        )
    if snapshot.group_support is GroupSupport.NO_KIND:
        yield Problem(
            "NoRoleBasedGroups",
            "The API server does not know the kind RoleBasedGroup, of which workers are made: install the CRDs of "
            "Patio's chart (`kubectl apply --server-side -f crds/`).",
        )
    elif snapshot.group_support is GroupSupport.OFF:
        yield Problem(
            "GroupsOff",
            "RoleBasedGroups, of which workers are made, are not realised in this cluster: set the chart's value "
            "groups.mode to auto, or install upstream's controller.",
        )
    for runtime in endpoint.runtimes:
        if runtime.profile_name not in snapshot.sidecars:
            yield Problem(
                "ProfileNotFound",
                f"There is no ClusterEngineRuntimeProfile {runtime.profile_name!r}: create it, or correct "
                "engineRuntimes.",
            )
            break
    aliases = [name for name in endpoint.spec.model.aliases if name in taken]
    if aliases:
        yield Problem(
            "NameTaken",
            f"The alias {aliases[0]!r} is a name of the older ModelEndpoint {taken[aliases[0]]}, which gets the "
            "requests: remove it here.",
            blocks=False,
        )
    if snapshot.service_owner is not None and snapshot.service_owner != endpoint.metadata.uid:
        yield Problem(
            "ServiceNameTaken",
            f"The Service {naming.service(endpoint)!r} belongs to another owner, and Patio leaves it: delete it, or "
            "give this ModelEndpoint another metadata.name. Requests through the gateway are not affected.",
            blocks=False,
        )


def _first_replicas(snapshot: Snapshot) -> int | None:
    spec = snapshot.endpoint.spec
    return snapshot.endpoint.desired_workers if spec.workers.replicas is None else None


def _changes(
    snapshot: Snapshot, current: GroupState | None, old: tuple[GroupState, ...], wanted: rollout.Targets
) -> tuple[tuple[Apply, ...], tuple[Resize, ...]]:
    endpoint = snapshot.endpoint
    applies: list[Apply] = []
    resizes: list[Resize] = []
    if snapshot.service_owner in (None, endpoint.metadata.uid):
        applies.append(Apply(objects.service(endpoint), "the Service selects the pods that take requests"))
    if current is None:
        body = objects.role_based_group(endpoint, wanted.current, snapshot.sidecars, snapshot.images)
        reason = "the spec asks for a new revision" if old else "the endpoint has no group yet"
        applies.append(Apply(body, reason))
    elif current.group.workers != wanted.current:
        resizes.append(_resize(current, wanted.current, f"workers that are wanted: {endpoint.desired_workers}"))
    for state, number in zip(old, wanted.old, strict=True):
        if state.group.workers != number:
            reason = "workers of the current revision answer instead"
            if wanted.stopped_by is not None:
                reason = f"the update stopped at {wanted.stopped_by.name}, and this revision follows the demand"
            resizes.append(_resize(state, number, reason))
    return tuple(applies), tuple(resizes)


def _resize(state: GroupState, number: int, reason: str) -> Resize:
    group = state.group
    return Resize(group.name, objects.resized(group, number), group.workers, number, reason)


def _deletes(old: tuple[GroupState, ...], wanted: rollout.Targets) -> Iterator[Delete]:
    for state, number in zip(old, wanted.old, strict=True):
        group = state.group
        if number == 0 and group.workers == 0 and state.pods == 0:
            yield Delete(group.name, group.uid, "the spec asks for another revision, and its workers have ended")


def _next_look(snapshot: Snapshot, states: list[GroupState]) -> datetime | None:
    """Return when the first worker that starts will have taken too long."""
    grace = length_of(snapshot.endpoint.spec.workers.loading_grace)
    waiting = (PodState.SCHEDULING, PodState.PULLING, PodState.LOADING)
    ends = [
        worker.pod.since + grace
        for state in states
        for worker in state.workers
        if worker.pod is not None and worker.state in waiting
    ]
    return min(ends, default=None)

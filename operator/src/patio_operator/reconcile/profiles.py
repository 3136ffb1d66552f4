"""Keeps a profile's status true, and rolls the workloads that use it when it changes.

One pass: read the profile, try it if nobody has tried this generation, list the metadata of the pods that have it,
read the workloads that are behind, let `rollouts.plan` decide, patch the pod templates that it names, write the status
that changed. Woken by events of the profile and of injected pods; at most one pass a second for each profile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from patio_operator import injection, rollouts
from patio_operator.api import labels
from patio_operator.api.conditions import find
from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.api.rolebasedgroup import RoleBasedGroup
from patio_operator.cluster import events
from patio_operator.cluster.api import Cluster, ConflictError, InvalidError, NotFoundError, Object
from patio_operator.cluster.kinds import DAEMON_SET, DEPLOYMENT, POD, PROFILE, ROLE_BASED_GROUP, STATEFUL_SET
from patio_operator.cluster.trial import try_profile
from patio_operator.groups import spared_by_a_rollout
from patio_operator.injection.trial import Verdict
from patio_operator.reconcile.queue import Key
from patio_operator.rollouts import roles
from patio_operator.rollouts.status import ACCEPTED
from patio_operator.rollouts.users import ROLE_KIND, User
from patio_operator.rollouts.workloads import Ref, Workload, decode, mark

log = logging.getLogger(__name__)

PASS_SECONDS = 1.0
"""Between two passes over a profile: a thousand pods that come at once are a few passes."""
_KINDS = {"Deployment": DEPLOYMENT, "StatefulSet": STATEFUL_SET, "DaemonSet": DAEMON_SET}
_RUNNING = "status.phase!=Succeeded,status.phase!=Failed"


class ProfileReconciler:
    """Works off profiles: `reconcile((name,))`."""

    def __init__(
        self, cluster: Cluster, namespace: str, clock: Callable[[], float], observing: Callable[[], bool]
    ) -> None:
        """`observing` tells whether groups are upstream's controller's at the moment."""
        self._cluster = cluster
        self._observing = observing
        self._namespace = namespace
        self._clock = clock
        self._last_pass: dict[str, float] = {}
        self._written: dict[str, Object] = {}
        self._refused: dict[str, tuple[int, Verdict]] = {}

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a profile; return after how many seconds to look again, if it matters."""
        (name,) = key
        wait = self._last_pass.get(name, -PASS_SECONDS) + PASS_SECONDS - self._clock()
        if wait > 0:
            return wait
        started = self._clock()
        again_in = await self._pass(name)
        self._last_pass[name] = started  # one that failed comes back after the queue's own pause
        return again_in

    async def _pass(self, name: str) -> float | None:
        try:
            body = await self._cluster.get(PROFILE, name)
        except NotFoundError:
            self._written.pop(name, None)
            self._refused.pop(name, None)
            return None
        # Upstream's CRD keeps no status: without this, every pass would write one.
        body["status"] = before = body.get("status") or self._written.get(name) or {}
        try:
            profile = ClusterEngineRuntimeProfile.model_validate(body)
        except ValidationError as error:
            log.error("profile %s cannot be read: %s", name, error)
            return None
        revision = injection.revision(profile)
        verdict = await self._verdict(profile, before)
        pods = await self._cluster.list_metadata(POD, f"{labels.INJECTED}=true", _RUNNING)
        users = rollouts.users_of(name, pods)
        workloads = await self._workloads(name, rollouts.to_look_at(profile, revision, users), users)
        plan = rollouts.plan(profile, revision, verdict, users, workloads, datetime.now(UTC))
        for roll in plan.rolls:
            await self._roll(body, roll)
        await self._write_status(body, before, plan)
        return plan.again_in.total_seconds() if plan.again_in is not None else None

    async def _verdict(self, profile: ClusterEngineRuntimeProfile, status: Object) -> Verdict:
        """Return what the trial of this generation found: when it was made, or now."""
        generation = profile.metadata.generation
        accepted = find(status, ACCEPTED)
        if accepted.get("observedGeneration") == generation and accepted["status"] == "True":
            return Verdict()
        name = profile.metadata.name
        tried, verdict = self._refused.get(name, (0, Verdict()))
        if tried != generation:
            verdict = await try_profile(self._cluster, self._namespace, profile)
            if verdict.problems:
                self._refused[name] = generation, verdict
        return verdict

    async def _workloads(self, profile: str, refs: list[Ref], users: list[User]) -> dict[Ref, Workload]:
        found: dict[Ref, Workload] = {}
        for ref in refs:
            try:
                if ref.kind == ROLE_KIND:
                    one = await self._role(profile, ref, users)
                else:
                    one = decode(ref.kind, await self._cluster.get(_KINDS[ref.kind], ref.name, ref.namespace))
            except NotFoundError:
                continue
            if one is not None:
                found[ref] = one
        return found

    async def _role(self, profile: str, ref: Ref, users: list[User]) -> Workload | None:
        name, _ = roles.group_and_role(ref)
        try:
            group = RoleBasedGroup.model_validate(await self._cluster.get(ROLE_BASED_GROUP, name, ref.namespace))
        except ValidationError:
            return None  # its own status says why nothing is done with it
        role = roles.role_of(group, ref)
        if role is None:
            return None
        held = "it is upstream's controller's" if self._observing() else ""
        return roles.decode_role(ref, group, role, profile, users, spared_by_a_rollout(role), held)

    async def _roll(self, profile: Object, roll: rollouts.Roll) -> None:
        ref = roll.workload.ref
        try:
            if ref.kind == ROLE_KIND:
                await self._mark_role(roll)
            else:
                patch: dict[str, Any] = mark(roll.rolled)
                patch["metadata"] = {"resourceVersion": roll.workload.resource_version}
                await self._cluster.merge(_KINDS[ref.kind], ref.name, ref.namespace, patch)
        except (ConflictError, NotFoundError):
            log.debug("%s not rolled: it changed", ref)  # the next pass sees it as it is
        except InvalidError as error:
            await events.record(self._cluster, profile, "Warning", "NotRolled", f"{ref}: {error.message}")
        else:
            log.info("rolled: %s: %s", ref, roll.reason)

    async def _mark_role(self, roll: rollouts.Roll) -> None:
        """Mark a role in the metadata of its group, which it shares with others: as the group is now."""
        ref = roll.workload.ref
        group, _ = roles.group_and_role(ref)
        body = await self._cluster.get(ROLE_BASED_GROUP, group, ref.namespace)
        patch = roles.mark_role(ref, body["metadata"], roll.rolled)
        await self._cluster.merge(ROLE_BASED_GROUP, group, ref.namespace, patch)

    async def _write_status(self, body: Object, before: Object, plan: rollouts.Plan) -> None:
        if plan.status == before:
            return
        name = body["metadata"]["name"]
        gone: Object = dict.fromkeys(before.keys() - plan.status.keys())
        try:
            await self._cluster.merge(PROFILE, name, None, {"status": {**gone, **plan.status}}, "status")
        except NotFoundError:
            return
        self._written[name] = plan.status
        for happened in plan.events:
            await events.record(self._cluster, body, happened.type, happened.reason, happened.message)

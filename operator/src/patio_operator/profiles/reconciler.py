"""Keeps a profile's status true, and rolls the workloads that use it when it changes.

One pass: read the profile, dry-run it if this generation was not dry-run yet, take the pods that have it from the
cache, read some of the workloads that are behind, plan (`planner`), patch the pod templates that the plan names, write
the status that changed. Changes of the profile and of injected pods bring the next pass; at most one a second for each.
What is remembered of workloads saves reading them: none is rolled that was not read in the same pass.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from patio_api.conditions import find
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_api.rolebasedgroup import RoleBasedGroup
from patio_api.rolling_update import kept_by_partition
from patio_kube import events
from patio_kube.client import ConflictError, InvalidError, KubeClient, NotFoundError, Object, UnreadableError
from patio_kube.informer import Informer
from patio_kube.resources import DAEMON_SET, DEPLOYMENT, PROFILE, ROLE_BASED_GROUP, STATEFUL_SET
from patio_kube.runtime.workqueue import Key
from patio_operator import injection
from patio_operator.pods.injected_pod import CachedPod
from patio_operator.pods.profile_use import ROLE_KIND, WorkloadRef
from patio_operator.profiles.dry_run import dry_run_profile
from patio_operator.profiles.planner import consumers, planner, roles
from patio_operator.profiles.planner.consumers import ProfilePod
from patio_operator.profiles.planner.snapshot import Snapshot
from patio_operator.profiles.planner.status import ACCEPTED
from patio_operator.profiles.planner.workloads import Workload, decode, template_patch
from patio_operator.profiles.validation import DryRunResult
from patio_operator.telemetry import statuses
from patio_operator.telemetry.object_gauges import ObjectState

log = logging.getLogger(__name__)

PASS_SECONDS = 1.0
"""Between two passes over a profile: a thousand pods that come at once are a few passes."""
_KINDS = {"Deployment": DEPLOYMENT, "StatefulSet": STATEFUL_SET, "DaemonSet": DAEMON_SET}
READ_IN_A_PASS = 20
"""Workloads, beside those that are being rolled: each is a request."""
READ_AT_ONCE = 4
REMEMBERED_SECONDS = 120.0
"""After which a workload that waits or is held is read again."""
NOT_FRESH_PAUSE = 1.0

OnStatus = Callable[[str, ObjectState | None], None]
"""Takes the name of a profile, and what its status says; None: there is no such profile."""


@dataclass
class _Kept:
    """What is remembered of a profile."""

    last_pass: float = -PASS_SECONDS
    written: Object = field(default_factory=dict)
    """Its status. Upstream's CRD keeps none: without this, every pass would write one."""
    rejected: tuple[int, DryRunResult] = (0, DryRunResult())
    """What the trial of a generation found."""
    workloads: dict[WorkloadRef, tuple[float, Workload | None]] = field(default_factory=dict)
    """Those that are behind, and when they were read; None: there is no such one."""


class ProfileReconciler:
    """Works off profiles: `reconcile((name,))`."""

    def __init__(
        self,
        client: KubeClient,
        pods: Informer[CachedPod],
        namespace: str,
        clock: Callable[[], float],
        observing: Callable[[], bool],
    ) -> None:
        """`observing` tells whether groups are upstream's controller's at the moment."""
        self._client = client
        self._pods = pods
        self._observing = observing
        self._namespace = namespace
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self.on_status: OnStatus = lambda name, state: None
        """Is called with what the status of a profile says, and when there is no such profile any more."""

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over a profile; return after how many seconds to look again, if it matters."""
        (name,) = key
        if not self._pods.synced:
            return NOT_FRESH_PAUSE
        kept = self._kept.setdefault(name, _Kept(last_pass=self._clock() - PASS_SECONDS))
        wait = kept.last_pass + PASS_SECONDS - self._clock()
        if wait > 0:
            return wait
        started = self._clock()
        requeue_after = await self._pass(name, kept)
        kept.last_pass = started  # one that failed comes back after the queue's own pause
        return requeue_after

    async def _pass(self, name: str, kept: _Kept) -> float | None:
        try:
            body = await self._client.get(PROFILE, name)
        except NotFoundError:
            self._kept.pop(name, None)
            self.on_status(name, None)
            return None
        body["status"] = before = body.get("status") or kept.written
        try:
            profile = ClusterEngineRuntimeProfile.model_validate(body)
        except ValidationError as error:
            log.error("profile %s cannot be read: %s", name, error)
            return None
        revision = injection.revision(profile)
        dry_run = await self._dry_run(profile, before, kept)
        pods = self._pods
        users = consumers.pods_with(
            name, (cached.use for namespace in pods.namespaces() for cached in pods.all(namespace))
        )
        await asyncio.sleep(0)  # with many thousands of pods each of these takes its time
        refs = planner.workloads_to_read(profile, revision, users)
        await asyncio.sleep(0)
        kept.workloads = {ref: read for ref, read in kept.workloads.items() if ref in refs}
        fresh = await self._read(name, self._to_read(profile, refs, kept), users, kept)
        now = datetime.now(UTC)
        while True:
            workloads = {ref: workload for ref, (_, workload) in kept.workloads.items() if workload is not None}
            unread = [ref for ref in refs if ref not in kept.workloads]
            plan = planner.plan(Snapshot(profile, revision, dry_run, users, workloads, now, unread))
            remembered = {roll.workload.ref for roll in plan.rolls} - fresh
            if not remembered:
                break
            fresh |= await self._read(name, remembered, users, kept)
        for roll in plan.rolls:
            await self._roll(body, roll)
            kept.workloads.pop(roll.workload.ref, None)
        if unread and not plan.status.get("rolling"):
            return PASS_SECONDS  # there may be some to roll among them: what there is to say is not known yet
        await self._write_status(body, before, plan, kept)
        return (plan.requeue_at - now).total_seconds() if plan.requeue_at is not None else None

    def _to_read(
        self, profile: ClusterEngineRuntimeProfile, refs: Iterable[WorkloadRef], kept: _Kept
    ) -> set[WorkloadRef]:
        """Return the workloads to read: those that are being rolled, and of the others those not read for longest."""
        rolling = {WorkloadRef(entry.kind, entry.namespace, entry.name) for entry in profile.status.rolling}
        old = self._clock() - REMEMBERED_SECONDS
        read = {ref: when for ref, (when, _) in kept.workloads.items()}
        others = [ref for ref in refs if ref not in rolling and read.get(ref, old) <= old]
        others.sort(key=lambda ref: (ref in read, read.get(ref, old), ref))
        return rolling.intersection(refs) | set(others[:READ_IN_A_PASS])

    async def _dry_run(self, profile: ClusterEngineRuntimeProfile, status: Object, kept: _Kept) -> DryRunResult:
        """Return what the trial of this generation found: when it was made, or now."""
        generation = profile.metadata.generation
        accepted = find(status, ACCEPTED)
        if accepted.get("observedGeneration") == generation and accepted["status"] == "True":
            return DryRunResult()
        tried, result = kept.rejected
        if tried != generation:
            result = await dry_run_profile(self._client, self._namespace, profile)
            if result.problems:
                kept.rejected = generation, result
        return result

    async def _read(
        self, profile: str, refs: Collection[WorkloadRef], users: list[ProfilePod], kept: _Kept
    ) -> set[WorkloadRef]:
        """Read workloads, a few at a time; return which were read."""
        slots = asyncio.Semaphore(READ_AT_ONCE)

        async def read(ref: WorkloadRef) -> None:
            async with slots:
                workload = await self._workload(profile, ref, users)
            kept.workloads[ref] = self._clock(), workload

        ends = await asyncio.gather(*(read(ref) for ref in sorted(refs)), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return set(refs)

    async def _workload(self, profile: str, ref: WorkloadRef, users: list[ProfilePod]) -> Workload | None:
        try:
            if ref.kind == ROLE_KIND:
                return await self._role(profile, ref, users)
            if ref.kind not in _KINDS:
                return None
            return decode(ref.kind, await self._client.get(_KINDS[ref.kind], ref.name, ref.namespace))
        except NotFoundError:
            return None
        except (InvalidError, UnreadableError) as error:  # of one workload, it keeps no other from being rolled
            return Workload(ref, "", held=f"it cannot be read: {error.message}")

    async def _role(self, profile: str, ref: WorkloadRef, users: list[ProfilePod]) -> Workload | None:
        name, _ = roles.group_and_role(ref)
        try:
            group = RoleBasedGroup.model_validate(await self._client.get(ROLE_BASED_GROUP, name, ref.namespace))
        except ValidationError:
            return None  # its own status says why nothing is done with it
        role = roles.role_of(group, ref)
        if role is None:
            return None
        held = "upstream's controller realises it" if self._observing() else ""
        return roles.decode_role(ref, group, role, profile, users, kept_by_partition(role), held)

    async def _roll(self, profile: Object, roll: planner.Roll) -> None:
        ref = roll.workload.ref
        try:
            if ref.kind == ROLE_KIND:
                await self._annotate_role(roll)
            else:
                patch: dict[str, Any] = template_patch(roll.rolled)
                patch["metadata"] = {"resourceVersion": roll.workload.resource_version}
                await self._client.merge(_KINDS[ref.kind], ref.name, ref.namespace, patch)
        except (ConflictError, NotFoundError):
            log.debug("%s not rolled: it changed", ref)  # the next pass sees it as it is
        except InvalidError as error:
            await events.record(self._client, profile, "Warning", "NotRolled", f"{ref}: {error.message}")
        else:
            log.info("rolled: %s: %s", ref, roll.reason)

    async def _annotate_role(self, roll: planner.Roll) -> None:
        """Mark a role in the metadata of its group, which it shares with others: as the group is now."""
        ref = roll.workload.ref
        group, _ = roles.group_and_role(ref)
        body = await self._client.get(ROLE_BASED_GROUP, group, ref.namespace)
        patch = roles.group_patch(ref, body["metadata"], roll.rolled)
        await self._client.merge(ROLE_BASED_GROUP, group, ref.namespace, patch)

    async def _write_status(self, body: Object, before: Object, plan: planner.Plan, kept: _Kept) -> None:
        name = body["metadata"]["name"]
        self.on_status(name, statuses.of_profile(plan.status))
        if plan.status == before:
            return
        removed: Object = dict.fromkeys(before.keys() - plan.status.keys())
        try:
            await self._client.merge(PROFILE, name, None, {"status": {**removed, **plan.status}}, "status")
        except NotFoundError:
            return
        kept.written = plan.status
        for happened in plan.events:
            await events.record(self._client, body, happened.type, happened.reason, happened.message)

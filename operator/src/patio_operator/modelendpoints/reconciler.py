"""Realises ModelEndpoints: reads an endpoint and what was made of it, plans (`planner`), carries the plan out.

Changes of the endpoint, of its groups and pods, of demand, of profiles and of endpoints with one of its names bring a
pass; at most one a second for each. Deleting an endpoint needs nothing here: what it made has it as its owner. Nothing
is written when nothing changed. What is kept between passes saves requests: losing it costs a repetition that is
harmless.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patio_api.demand_report import DemandReport
from patio_api.endpoint_labels import ENDPOINT
from patio_api.model_endpoint import ModelEndpoint, UnreadableEndpoint, read
from patio_api.owners import controller_uid
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube import events
from patio_kube.client import ConflictError, InvalidError, KubeClient, NotFoundError, Object, UnreadableError
from patio_kube.informer import Informer
from patio_kube.resources import BY_KIND, MODEL_ENDPOINT, ROLE_BASED_GROUP, SERVICE
from patio_kube.runtime.workqueue import Key
from patio_operator.modelendpoints.caches import CachedEndpoint, CachedPod, ClaimIndex, sidecar_container
from patio_operator.modelendpoints.demand import demand_of
from patio_operator.modelendpoints.planner import naming, planner
from patio_operator.modelendpoints.planner.plan import Plan
from patio_operator.modelendpoints.planner.snapshot import GroupSupport, ObservedGroup, Snapshot, decode_group
from patio_operator.modelendpoints.planner.status import unreadable

log = logging.getLogger(__name__)

PASS_SECONDS = 1.0
"""Between two passes over an endpoint: pods that come at once are a few passes."""
NOT_FRESH_PAUSE = 1.0

AdaptersOf = Callable[[str, Mapping[str, str]], Sequence[str]]
"""Takes a namespace and labels; returns the names in requests of the LoraAdapters there that have the labels."""


@dataclass(frozen=True)
class Sources:
    """What passes read beside the API server itself."""

    endpoints: Informer[CachedEndpoint]
    pods: Informer[CachedPod]
    profiles: Informer[ClusterEngineRuntimeProfile]
    reports: Informer[DemandReport]
    claims: ClaimIndex
    adapters_of: AdaptersOf
    groups_are_realised: Callable[[], bool]
    """Whether somebody makes pods of RoleBasedGroups."""


@dataclass(frozen=True)
class Options:
    """What the operator's settings say of endpoints."""

    images: Mapping[str, str]
    """Of the engines, for roles that name none."""
    gateway_url: str = ""
    """Where clients reach the gateway; empty: there is none."""


@dataclass
class _Kept:
    """What is remembered of an endpoint."""

    last_pass: float
    applied: dict[tuple[str, str], str] = field(default_factory=dict)
    """Digest of what was applied last, by kind and name."""
    rejected: str = ""
    """The last message of the API server that was recorded."""


class EndpointReconciler:
    """Works off endpoints: `reconcile((namespace, name))`."""

    def __init__(self, client: KubeClient, sources: Sources, options: Options, clock: Callable[[], float]) -> None:
        """`clock` counts seconds."""
        self._client = client
        self._sources = sources
        self._options = options
        self._clock = clock
        self._kept: dict[Key, _Kept] = {}

    def __len__(self) -> int:
        """Return how many endpoints something is kept of."""
        return len(self._kept)

    async def reconcile(self, key: Key) -> float | None:
        """Make one pass over an endpoint; return in how many seconds to make another one although nothing happens."""
        namespace, name = key
        sources = self._sources
        if not (sources.pods.synced_in(namespace) and sources.profiles.synced and sources.endpoints.synced):
            return NOT_FRESH_PAUSE
        kept = self._kept.setdefault(key, _Kept(self._clock() - PASS_SECONDS))
        wait = kept.last_pass + PASS_SECONDS - self._clock()
        if wait > 0:
            return wait
        started = self._clock()
        try:
            body = await self._client.get(MODEL_ENDPOINT, name, namespace)
        except NotFoundError:
            self._kept.pop(key, None)
            return None
        except UnreadableError as error:
            log.error("model endpoint %s/%s cannot be read: %s", namespace, name, error.message)
            return None
        requeue_after = await self._pass(body, kept)
        kept.last_pass = started  # one that failed comes back after the queue's own pause
        return requeue_after

    async def _pass(self, body: Object, kept: _Kept) -> float | None:
        endpoint = read(body)
        now = self._client.now()
        if isinstance(endpoint, UnreadableEndpoint):
            await self._write_status(body, unreadable(body, endpoint.message, now))
            return None
        snapshot = await self._snapshot(endpoint)
        plan = planner.plan(snapshot)
        try:
            await self._carry_out(plan, snapshot, body, kept)
        except ConflictError as error:  # something changed since it was read: the next pass sees it
            log.info("model endpoint %s: plan is out of date: %s", endpoint.key, error.message)
            return PASS_SECONDS
        except InvalidError as error:
            await self._record_rejection(body, error, kept)
            raise
        kept.rejected = ""
        if plan.status is not None:
            await self._write_status(body, plan.status)
        return None if plan.requeue_at is None else max(PASS_SECONDS, (plan.requeue_at - now).total_seconds())

    async def _snapshot(self, endpoint: ModelEndpoint) -> Snapshot:
        sources, now = self._sources, self._client.now()
        namespace, name = endpoint.metadata.namespace, endpoint.metadata.name
        groups, support = await self._groups(endpoint)
        own = {group.name for group in groups}
        pods = [
            cached.pod for cached in sources.pods.all(namespace) if cached.endpoint == name and cached.pod.group in own
        ]
        profiles = {runtime.profile_name: sources.profiles.get(runtime.profile_name) for runtime in endpoint.runtimes}
        reports = [report for place in sources.reports.namespaces() for report in sources.reports.all(place)]
        adapters = endpoint.spec.adapters
        return Snapshot(
            endpoint,
            now,
            groups=groups,
            pods=pods,
            service_owner=await self._service_owner(endpoint),
            sidecars={name: sidecar_container(found) for name, found in profiles.items() if found is not None},
            adapters=() if adapters is None else sources.adapters_of(namespace, adapters.selector.match_labels),
            claims=sources.claims.rivals(endpoint.key, endpoint.names),
            demand=demand_of(endpoint.key, reports, now),
            images=self._options.images,
            gateway_url=self._options.gateway_url,
            group_support=support,
        )

    async def _groups(self, endpoint: ModelEndpoint) -> tuple[list[ObservedGroup], GroupSupport]:
        """Read the endpoint's groups, and whether there can be any."""
        selector = f"{ENDPOINT}={endpoint.metadata.name}"
        try:
            bodies = await self._client.list_all(ROLE_BASED_GROUP, endpoint.metadata.namespace, selector)
        except NotFoundError:
            return [], GroupSupport.NO_KIND
        own = [body for body in bodies if controller_uid(body["metadata"]) == endpoint.metadata.uid]
        support = GroupSupport.REALISED if self._sources.groups_are_realised() else GroupSupport.OFF
        return [decode_group(body) for body in own], support

    async def _service_owner(self, endpoint: ModelEndpoint) -> str | None:
        try:
            body = await self._client.get(SERVICE, naming.service(endpoint), endpoint.metadata.namespace)
        except NotFoundError:
            return None
        except UnreadableError:
            return ""
        return controller_uid(body["metadata"])

    async def _carry_out(self, plan: Plan, snapshot: Snapshot, body: Object, kept: _Kept) -> None:
        """Do what a plan says, but for the status.

        Raises:
            ConflictError: something is not what was planned from any more.
            InvalidError: the API server will not take something as it is.

        """
        endpoint = snapshot.endpoint
        namespace, name = endpoint.metadata.namespace, endpoint.metadata.name
        if plan.replicas is not None:
            # The version is a condition: who scales at this moment wins.
            metadata = {"resourceVersion": body["metadata"]["resourceVersion"]}
            patch = {"metadata": metadata, "spec": {"workers": {"replicas": plan.replicas}}}
            written = await self._client.merge(MODEL_ENDPOINT, name, namespace, patch)
            body["metadata"]["resourceVersion"] = written["metadata"]["resourceVersion"]
        for apply in plan.applies:
            place = apply.body["kind"], apply.body["metadata"]["name"]
            digest = hashlib.sha256(json.dumps(apply.body, sort_keys=True).encode()).hexdigest()
            is_there = apply.body["kind"] == SERVICE.kind and snapshot.service_owner is not None
            if is_there and kept.applied.get(place) == digest:
                continue
            log.info("model endpoint %s: apply %s %s: %s", endpoint.key, *place, apply.reason)
            await self._client.apply(BY_KIND[apply.body["apiVersion"], apply.body["kind"]], apply.body)
            kept.applied[place] = digest
        for resize in plan.resizes:
            numbers = f"{resize.workers_before} to {resize.workers} workers"
            log.info("model endpoint %s: group %s from %s: %s", endpoint.key, resize.group, numbers, resize.reason)
            await self._client.merge(ROLE_BASED_GROUP, resize.group, namespace, resize.patch)
        for delete in plan.deletes:
            log.info("model endpoint %s: delete group %s: %s", endpoint.key, delete.group, delete.reason)
            await self._client.delete(ROLE_BASED_GROUP, delete.group, namespace, delete.uid)

    async def _record_rejection(self, body: Object, error: InvalidError, kept: _Kept) -> None:
        if kept.rejected == error.message:
            return
        kept.rejected = error.message
        await events.record(self._client, body, "Warning", "Rejected", error.message)

    async def _write_status(self, body: Object, after: Object) -> None:
        """Write a status if it changed. What is not in it any more is removed."""
        before = body.get("status") or {}
        if after == before:
            return
        metadata = body["metadata"]
        patch: dict[str, Any] = {key: None for key in before if key not in after} | after
        if isinstance(before.get("progress"), dict) and isinstance(after.get("progress"), dict):
            patch["progress"] = dict.fromkeys(before["progress"]) | after["progress"]
        await self._client.merge(MODEL_ENDPOINT, metadata["name"], metadata["namespace"], {"status": patch}, "status")

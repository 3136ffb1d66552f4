"""What an admission reads: profiles, LoraAdapters, and in observe mode groups. Used by `pod_mutation`.

Profiles and LoraAdapters come from caches that every replica has: an admission does not wait for the API server. What
these may not have yet is read from the API server: a profile that was created a moment ago or changed for the roll that
made the pod, all of it while a watch is lost, and groups. Admissions at the same time share these reads
(`CoalescedReads`).
"""

from __future__ import annotations

from patio_api.loraadapter import LoraAdapter
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import KubeClient, NotFoundError, Object
from patio_kube.coalesced_reads import CoalescedReads
from patio_kube.resources import (
    LORA_ADAPTER,
    OLD_PROFILE,
    OLD_ROLE_BASED_GROUP,
    PROFILE,
    ROLE_BASED_GROUP,
    Resource,
)
from patio_operator.caches import Caches
from patio_operator.injection import revision
from patio_operator.loraadapters.caches import adapters_in


class PodMutationReads:
    """Reads for admissions. Every method raises ApiError when the API server does not answer."""

    def __init__(self, client: KubeClient, caches: Caches) -> None:
        self._client = client
        self._caches = caches
        self._profiles = CoalescedReads(self._read_profile)
        self._adapters = CoalescedReads(self._read_adapters)
        self._groups = CoalescedReads(self._read_group)

    async def profile(self, name: str, rolled_for: str | None) -> ClusterEngineRuntimeProfile | None:
        """Return a profile; None when there is none of that name.

        Args:
            name: of the profile.
            rolled_for: the revision for which the pod's workload was rolled last, if it was: a pod that is made by a
                roll must not get the revision before.

        """
        cached = self._caches.profiles.get(name) if self._caches.profiles.synced else None
        if cached is not None and rolled_for in (None, revision(cached)):
            return cached
        return await self._profiles.get(name)

    async def adapters(self, namespace: str) -> tuple[LoraAdapter, ...]:
        """Return the LoraAdapters of a namespace that can be read."""
        if self._caches.adapters.synced_in(namespace):
            return tuple(cached.adapter for cached in self._caches.adapters.all(namespace))
        return await self._adapters.get(namespace)

    async def group(self, namespace: str, name: str) -> Object | None:
        """Return a RoleBasedGroup of either version; None when there is none of that name."""
        return await self._groups.get((namespace, name))

    async def _read_profile(self, name: str) -> ClusterEngineRuntimeProfile | None:
        body = await self._newest((PROFILE, OLD_PROFILE), name)
        return None if body is None else ClusterEngineRuntimeProfile.model_validate(body)

    async def _read_adapters(self, namespace: str) -> tuple[LoraAdapter, ...]:
        return adapters_in(await self._client.list_all(LORA_ADAPTER, namespace))

    async def _read_group(self, key: tuple[str, str]) -> Object | None:
        namespace, name = key
        return await self._newest((ROLE_BASED_GROUP, OLD_ROLE_BASED_GROUP), name, namespace)

    async def _newest(self, kinds: tuple[Resource, Resource], name: str, namespace: str | None = None) -> Object | None:
        """Read an object in the newest version that is served: upstream's CRDs of 0.6 and before have the old one."""
        for kind in kinds:
            try:
                return await self._client.get(kind, name, namespace)
            except NotFoundError:
                continue
        return None

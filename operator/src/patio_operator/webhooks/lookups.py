"""What an admission looks up: profiles, LoraAdapters, and in observe mode groups. Used by `review`.

Always as the API server has them now, never from what a watch once brought: every replica answers the same, and a
profile that was applied a moment ago counts. Admissions at the same time share their reads (`FreshReads`).
"""

from __future__ import annotations

import logging

from pydantic import ValidationError

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.cluster.api import Cluster, NotFoundError, Object
from patio_operator.cluster.fresh import FreshReads
from patio_operator.cluster.kinds import (
    LORA_ADAPTER,
    OLD_PROFILE,
    OLD_ROLE_BASED_GROUP,
    PROFILE,
    ROLE_BASED_GROUP,
    Kind,
)

log = logging.getLogger(__name__)


class Lookups:
    """Reads for admissions. Every method raises ApiError when the API server does not answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._profiles = FreshReads(self._read_profile)
        self._adapters = FreshReads(self._read_adapters)
        self._groups = FreshReads(self._read_group)

    async def profile(self, name: str) -> ClusterEngineRuntimeProfile | None:
        """Return a profile; None when there is none of that name."""
        return await self._profiles.get(name)

    async def adapters(self, namespace: str) -> tuple[LoraAdapter, ...]:
        """Return the LoraAdapters of a namespace."""
        return await self._adapters.get(namespace)

    async def group(self, namespace: str, name: str) -> Object | None:
        """Return a RoleBasedGroup of either version; None when there is none of that name."""
        return await self._groups.get((namespace, name))

    async def _read_profile(self, name: str) -> ClusterEngineRuntimeProfile | None:
        body = await self._newest((PROFILE, OLD_PROFILE), name)
        return None if body is None else ClusterEngineRuntimeProfile.model_validate(body)

    async def _read_adapters(self, namespace: str) -> tuple[LoraAdapter, ...]:
        adapters: list[LoraAdapter] = []
        for body in await self._cluster.list_all(LORA_ADAPTER, namespace):
            try:
                adapters.append(LoraAdapter.model_validate(body))
            except ValidationError as error:
                log.error("LoraAdapter %s/%s cannot be read: %s", namespace, body["metadata"]["name"], error)
        return tuple(adapters)

    async def _read_group(self, key: tuple[str, str]) -> Object | None:
        namespace, name = key
        return await self._newest((ROLE_BASED_GROUP, OLD_ROLE_BASED_GROUP), name, namespace)

    async def _newest(self, kinds: tuple[Kind, Kind], name: str, namespace: str | None = None) -> Object | None:
        """Read an object in the newest version that is served: upstream's CRDs of 0.6 and before have the old one."""
        for kind in kinds:
            try:
                return await self._cluster.get(kind, name, namespace)
            except NotFoundError:
                continue
        return None

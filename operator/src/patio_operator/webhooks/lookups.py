"""What the admission of a pod looks up: profiles by name, and the LoraAdapters of a namespace.

Answered from watches, so that an admission costs the API server nothing and does not wait for it; from the API server
itself while a watch is lost, and for a profile that may have come or changed a moment ago.
"""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from pydantic import ValidationError

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.cluster.api import Cluster, NotFoundError, Object
from patio_operator.cluster.kinds import LORA_ADAPTER, PROFILE
from patio_operator.cluster.watched import Watched
from patio_operator.injection import revision

log = logging.getLogger(__name__)


class Lookups:
    """Looks up; `watches` are to be run beside it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._profiles = Watched(cluster, PROFILE, _decoded_profile)
        self._adapters = Watched(cluster, LORA_ADAPTER, _decoded_adapter)

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps the answers up to date, until cancelled."""
        return [self._profiles.run(), self._adapters.run()]

    async def profile(self, name: str, rolled_for: str | None) -> ClusterEngineRuntimeProfile | None:
        """Return a profile; None when there is none of that name.

        Args:
            name: of the profile.
            rolled_for: the revision for which the pod's workload was rolled last, if it was: a pod that is made by a
                roll must not get the revision before.

        Raises:
            ApiError: it could not be read.

        """
        known = self._profiles.get(name) if self._profiles.fresh else None
        if known is not None and rolled_for in (None, revision(known)):
            return known
        try:
            return ClusterEngineRuntimeProfile.model_validate(await self._cluster.get(PROFILE, name))
        except NotFoundError:
            return None

    async def adapters(self, namespace: str) -> list[LoraAdapter]:
        """Return the LoraAdapters of a namespace that can be read.

        Raises:
            ApiError: they could not be read.

        """
        if self._adapters.fresh:
            return self._adapters.all(namespace)
        bodies = await self._cluster.list_all(LORA_ADAPTER, namespace)
        return [one for body in bodies if (one := _decoded_adapter(body)) is not None]


def _decoded_profile(body: Object) -> ClusterEngineRuntimeProfile | None:
    try:
        return ClusterEngineRuntimeProfile.model_validate(body)
    except ValidationError as error:
        log.error("profile %s cannot be read: %s", body["metadata"]["name"], error)
        return None


def _decoded_adapter(body: Object) -> LoraAdapter | None:
    try:
        return LoraAdapter.model_validate(body)
    except ValidationError as error:
        log.error(
            "LoraAdapter %s/%s cannot be read: %s", body["metadata"]["namespace"], body["metadata"]["name"], error
        )
        return None

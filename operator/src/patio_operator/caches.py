"""The informers of the process: one for a resource and scope, in every replica, shared by all who read it.

Each keeps of an object what its readers need and no more (`pods`, and the `caches` of each feature, decode). Nothing
here decides.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from patio_api import labels
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.client import KubeClient, Scope
from patio_kube.informer import Informer
from patio_kube.resources import LORA_ADAPTER, POD, PROFILE, ROLE_BASED_GROUP, SERVICE, STATEFUL_SET
from patio_operator.groups.caches import decode_group, decode_member
from patio_operator.loraadapters.caches import decode_adapter
from patio_operator.loraadapters.planner.services import CachedService, decode_service
from patio_operator.pods.injected_pod import decode_pod


class Caches:
    """All informers."""

    def __init__(self, client: KubeClient, *, groups: bool = True, namespaces: Sequence[str] = ()) -> None:
        """Make the informers; `watches` runs them.

        Args:
            client: by which they list and watch.
            groups: whether RoleBasedGroups and what they are made of are watched.
            namespaces: that are watched; none: all.

        """
        self._with_groups = groups
        injected = Scope(labels=f"{labels.INJECTED}=true")
        scope = Scope(labels=labels.ADAPTER_SERVICE)
        of_groups = Scope(labels=labels.GROUP_NAME, metadata_only=True)
        self.pods = Informer(client, POD, decode_pod, injected, namespaces)
        self.adapters = Informer(client, LORA_ADAPTER, decode_adapter, namespaces=namespaces)
        self.services: Informer[CachedService] = Informer(client, SERVICE, decode_service, scope, namespaces)
        self.profiles = Informer(client, PROFILE, ClusterEngineRuntimeProfile.model_validate)
        self.groups = Informer(client, ROLE_BASED_GROUP, decode_group, Scope(metadata_only=True), namespaces)
        self.group_pods = Informer(client, POD, decode_member, of_groups, namespaces)
        self.stateful_sets = Informer(client, STATEFUL_SET, decode_member, of_groups, namespaces)

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps everything up to date, until cancelled."""
        return [informer.run() for informer in self.informers]

    def retry_now(self) -> None:
        """Have no watch that is lost wait any longer before it tries again."""
        for informer in self.informers:
            informer.retry_now()

    @property
    def informers(self) -> tuple[Informer[Any], ...]:
        """All that are watched."""
        always = (self.pods, self.adapters, self.services, self.profiles)
        of_groups = (self.groups, self.group_pods, self.stateful_sets)
        return (*always, *of_groups) if self._with_groups else always

    @property
    def complete(self) -> bool:
        """Whether every watch is there."""
        return all(informer.synced for informer in self.informers)

"""Turns changes of watched objects into keys of work queues.

`there_are_*` return the keys of all objects that there are: what a queue begins with, and its net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.caches import CachedAdapter, CachedGroup, CachedPod, Caches
from patio_operator.loraadapters.planner.services import CachedService
from patio_operator.runtime.workqueue import Key, WorkQueue

Member = tuple[str, str]


def namespace_keys(known: Caches) -> Iterator[Key]:
    """Yield the namespaces in which LoraAdapters are planned."""
    kinds = (known.pods, known.adapters, known.services)
    yield from ((namespace,) for namespace in {one for kind in kinds for one in kind.namespaces()})


def group_keys(known: Caches) -> Iterator[Key]:
    """Yield the RoleBasedGroups."""
    yield from known.groups.keys_of_all()


def profile_keys(known: Caches) -> Iterator[Key]:
    """Yield the profiles."""
    yield from ((name,) for _, name in known.profiles.keys_of_all())


class EventHandlers:
    """Listens to the watches and wakes the queues."""

    def __init__(
        self,
        known: Caches,
        adapters: WorkQueue,
        groups: WorkQueue,
        profiles: WorkQueue,
        groups_with: Callable[[str], Iterable[Key]],
    ) -> None:
        """`groups_with` returns the groups that name a profile, or wait for it."""
        self._known = known
        self._adapters = adapters
        self._groups = groups
        self._profiles = profiles
        self._groups_with = groups_with
        known.pods.add_event_handler(self._on_pod)
        known.adapters.add_event_handler(self._on_adapter)
        known.services.add_event_handler(self._on_service)
        known.profiles.add_event_handler(self._on_profile)
        known.groups.add_event_handler(self._on_group)
        known.group_pods.add_event_handler(self._on_member)
        known.stateful_sets.add_event_handler(self._on_member)

    def _on_pod(self, namespace: str, was: CachedPod | None, there: CachedPod | None) -> None:
        self._adapters.add((namespace,))
        before = None if was is None else was.use
        after = None if there is None else there.use
        if before == after:
            return
        for profile in {name for one in (before, after) if one is not None for name in one.revisions}:
            if self._known.profiles.get(profile) is not None:
                self._profiles.add((profile,))

    def _on_adapter(self, namespace: str, was: CachedAdapter | None, there: CachedAdapter | None) -> None:
        self._adapters.add((namespace,))

    def _on_service(self, namespace: str, was: CachedService | None, there: CachedService | None) -> None:
        self._adapters.add((namespace,))

    def _on_profile(
        self, _: str, was: ClusterEngineRuntimeProfile | None, there: ClusterEngineRuntimeProfile | None
    ) -> None:
        one = there or was
        assert one is not None
        name = one.metadata.name
        if (was is None) != (there is None):  # a group needs to know that there is one, not what it says
            for key in list(self._groups_with(name)):
                self._groups.add(key)

    def _on_group(self, namespace: str, was: CachedGroup | None, there: CachedGroup | None) -> None:
        one = there or was
        assert one is not None
        self._groups.add((namespace, one.name))

    def _on_member(self, namespace: str, was: Member | None, there: Member | None) -> None:
        for group in {one[0] for one in (was, there) if one is not None}:
            if self._known.groups.get(group, namespace) is not None:
                self._groups.add((namespace, group))

"""Turns changes of watched objects into keys of work queues.

`there_are_*` return the keys of all objects that there are: what a queue begins with, and its net.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.cluster.known import Known, KnownAdapter, KnownGroup, KnownPod
from patio_operator.placement.services import KnownService
from patio_operator.reconcile.queue import Key, WorkQueue

Member = tuple[str, str]


def there_are_namespaces(known: Known) -> Iterator[Key]:
    """Yield the namespaces in which LoraAdapters are planned."""
    kinds = (known.pods, known.adapters, known.services)
    yield from ((namespace,) for namespace in {one for kind in kinds for one in kind.namespaces()})


def there_are_groups(known: Known) -> Iterator[Key]:
    """Yield the RoleBasedGroups."""
    yield from known.groups.places()


def there_are_profiles(known: Known) -> Iterator[Key]:
    """Yield the profiles."""
    yield from ((name,) for _, name in known.profiles.places())


class Wakes:
    """Listens to the watches and wakes the queues."""

    def __init__(
        self,
        known: Known,
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
        known.pods.listen(self._on_pod)
        known.adapters.listen(self._on_adapter)
        known.services.listen(self._on_service)
        known.profiles.listen(self._on_profile)
        known.groups.listen(self._on_group)
        known.group_pods.listen(self._on_member)
        known.stateful_sets.listen(self._on_member)

    def _on_pod(self, namespace: str, was: KnownPod | None, there: KnownPod | None) -> None:
        self._adapters.wake((namespace,))
        before = None if was is None else was.use
        after = None if there is None else there.use
        if before == after:
            return
        for profile in {name for one in (before, after) if one is not None for name in one.revisions}:
            if self._known.profiles.get(profile) is not None:
                self._profiles.wake((profile,))

    def _on_adapter(self, namespace: str, was: KnownAdapter | None, there: KnownAdapter | None) -> None:
        self._adapters.wake((namespace,))

    def _on_service(self, namespace: str, was: KnownService | None, there: KnownService | None) -> None:
        self._adapters.wake((namespace,))

    def _on_profile(
        self, _: str, was: ClusterEngineRuntimeProfile | None, there: ClusterEngineRuntimeProfile | None
    ) -> None:
        one = there or was
        assert one is not None
        name = one.metadata.name
        if (was is None) != (there is None):  # a group needs to know that there is one, not what it says
            for key in list(self._groups_with(name)):
                self._groups.wake(key)

    def _on_group(self, namespace: str, was: KnownGroup | None, there: KnownGroup | None) -> None:
        one = there or was
        assert one is not None
        self._groups.wake((namespace, one.name))

    def _on_member(self, namespace: str, was: Member | None, there: Member | None) -> None:
        for group in {one[0] for one in (was, there) if one is not None}:
            if self._known.groups.get(group, namespace) is not None:
                self._groups.wake((namespace, group))

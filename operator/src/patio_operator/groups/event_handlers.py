"""Which changes make a RoleBasedGroup be planned: its own, those of what was made of it, and of profiles it names.

What users write into labels becomes a key only where there is a group of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import Key, WorkQueue
from patio_operator.groups.caches import CachedGroup

Member = tuple[str, str]
"""What the cache has of an object made of a group (`caches.decode_member`)."""


def register(
    queue: WorkQueue,
    groups: Informer[CachedGroup],
    members: Iterable[Informer[Member]],
    profiles: Informer[ClusterEngineRuntimeProfile],
    groups_with: Callable[[str], Iterable[Key]],
) -> None:
    """Have changes add groups to the queue.

    Args:
        queue: of the groups.
        groups: the groups.
        members: the objects that are made of groups.
        profiles: what groups name.
        groups_with: returns the groups that name a profile, or wait for it.

    """

    def on_group(namespace: str, before: CachedGroup | None, after: CachedGroup | None) -> None:
        group = after or before
        assert group is not None
        queue.add((namespace, group.name))

    def on_member(namespace: str, before: Member | None, after: Member | None) -> None:
        for name in {member[0] for member in (before, after) if member is not None}:
            if groups.get(name, namespace) is not None:
                queue.add((namespace, name))

    def on_profile(
        _: str, before: ClusterEngineRuntimeProfile | None, after: ClusterEngineRuntimeProfile | None
    ) -> None:
        profile = after or before
        assert profile is not None
        if (before is None) != (after is None):  # a group needs to know that there is one, not what it says
            for key in list(groups_with(profile.metadata.name)):
                queue.add(key)

    groups.add_event_handler(on_group)
    for informer in members:
        informer.add_event_handler(on_member)
    profiles.add_event_handler(on_profile)


def existing_keys(groups: Informer[CachedGroup]) -> Iterator[Key]:
    """Yield the groups that there are."""
    yield from groups.object_keys()

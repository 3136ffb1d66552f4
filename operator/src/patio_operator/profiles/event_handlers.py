"""Which changes of pods make a profile be planned. Changes of profiles themselves come from kopf (`handlers.profiles`).

What users write into annotations becomes a key only where there is a profile of that name.
"""

from __future__ import annotations

from collections.abc import Iterator

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import Key, WorkQueue
from patio_operator.pods.injected_pod import CachedPod


def register(queue: WorkQueue, pods: Informer[CachedPod], profiles: Informer[ClusterEngineRuntimeProfile]) -> None:
    """Have each change of which profiles a pod has add these profiles to the queue."""

    def on_pod(_: str, before: CachedPod | None, after: CachedPod | None) -> None:
        uses = (None if before is None else before.use, None if after is None else after.use)
        if uses[0] == uses[1]:
            return
        for profile in {name for use in uses if use is not None for name in use.revisions}:
            if profiles.get(profile) is not None:
                queue.add((profile,))

    pods.add_event_handler(on_pod)


def existing_keys(profiles: Informer[ClusterEngineRuntimeProfile]) -> Iterator[Key]:
    """Yield the profiles that there are."""
    yield from ((name,) for _, name in profiles.object_keys())

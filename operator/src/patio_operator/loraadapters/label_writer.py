"""Sets the serving labels of pods as the planner wants them.

In the background, one patch a pod; a pod that was replaced under its name is not touched (its UID is a condition). When
a label was removed is remembered here: requests may be on their way to that pod for a moment longer.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial

from patio_api import labels
from patio_kube.client import ApiError, ConflictError, KubeClient, NotFoundError
from patio_kube.informer import Informer
from patio_kube.resources import POD
from patio_kube.runtime.task_pool import KeyedTaskPool
from patio_operator.loraadapters.planner.plan import SetServingLabels
from patio_operator.pods.injected_pod import CachedPod

log = logging.getLogger(__name__)

REMEMBERED = timedelta(minutes=10)
"""After which it counts as long ago that a label went."""
AT_ONCE = 16
AT_ONCE_FOR_A_NAMESPACE = 12


class LabelWriter:
    """Patches pods' labels. Close it at the end."""

    def __init__(
        self,
        client: KubeClient,
        pods: Informer[CachedPod],
        now: Callable[[], datetime],
        rng: random.Random,
        on_end: Callable[[str], None],
        ordered: Callable[[str, str], bool],
    ) -> None:
        """Take what is called with the namespace of each patch that is over, and who knows the orders in progress.

        `ordered` tells by a pod's UID and an adapter's name whether an order about it is in progress: it may take
        weights away though no plan wants that any more, so no label is put on meanwhile.
        """
        self._ordered = ordered
        self._client = client
        self._pods = pods
        self._now = now
        self._pool = KeyedTaskPool("mark", AT_ONCE, 1, rng, on_end, AT_ONCE_FOR_A_NAMESPACE)
        self._unlabelled: dict[str, dict[tuple[str, str], datetime]] = {}
        self._coming: dict[str, frozenset[str]] = {}
        """Names that a patch in progress may put on a pod, by the pod's UID."""

    def unlabelled(self, namespace: str, pods: Iterable[str]) -> Mapping[tuple[str, str], datetime]:
        """Return when the label of an adapter was last taken off a pod, by the pod's UID and the adapter's name.

        A label that a patch in progress may put on counts as one that went just now: weights must not go before it is
        known to be there or not.

        Args:
            namespace: whose pods.
            pods: UIDs of those that there are; what was of others is forgotten.

        """
        uids, since = set(pods), self._now() - REMEMBERED
        before = self._unlabelled.pop(namespace, {})
        kept = {key: when for key, when in before.items() if key[0] in uids and when > since}
        if kept:
            self._unlabelled[namespace] = kept
        now = self._now()
        coming = {(uid, name): now for uid in self._coming.keys() & uids for name in self._coming[uid]}
        return kept | coming

    def apply(self, serving: Iterable[SetServingLabels]) -> None:
        """Patch the pods whose labels are not being patched already."""
        for mark in serving:
            uid = mark.pod.uid
            if self._pool.submit(mark.pod.namespace, uid, uid, partial(self._patch, mark)):
                self._coming[uid] = mark.names - mark.pod.serving

    async def close(self) -> None:
        """Stop the patches in progress and forget everything."""
        await self._pool.close()
        self._unlabelled.clear()
        self._coming.clear()

    async def _patch(self, mark: SetServingLabels) -> bool:
        try:
            return await self._write(mark)
        finally:
            self._coming.pop(mark.pod.uid, None)

    async def _write(self, mark: SetServingLabels) -> bool:
        pod = mark.pod
        cached = self._pods.get(pod.name, pod.namespace)
        if cached is None or cached.pod.uid != pod.uid:
            return True
        annotations = {} if cached.names is None else {labels.ADAPTER_NAMES: cached.names}
        names = frozenset(
            name for name in mark.names if name in cached.pod.serving or not self._ordered(mark.pod.uid, name)
        )
        shown = {labels.adapter_label(name).removeprefix(labels.ADAPTER_PREFIX) for name in names}
        owners = [(owner, value) for owner, value in mark.owners if value in shown]
        patch = labels.serving_labels_patch({"labels": cached.pod.labels, "annotations": annotations}, names, owners)
        if not patch:
            return names == mark.names  # else again, after a pause
        patch["metadata"]["uid"] = pod.uid
        log.info("labels of %s/%s: %s", pod.namespace, pod.name, mark.reason)
        try:
            body = await self._client.merge(POD, pod.name, pod.namespace, patch)
        except (ConflictError, NotFoundError):
            return True  # gone, or another pod by now: its event brings the next pass
        except ApiError as error:
            log.warning("labels of %s/%s not written: %s", pod.namespace, pod.name, error.message)
            return False
        now = self._now()
        for name in cached.pod.serving - names:
            self._unlabelled.setdefault(pod.namespace, {})[pod.uid, name] = now
        self._pods.observe_write(body)
        return True

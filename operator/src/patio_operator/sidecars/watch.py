"""What every sidecar reports, kept current by one long-poll each.

`follow` is given the pods that there are; for each it runs a task that asks the sidecar for its adapters and waits
for the answer to change. A change, or a sidecar that stops answering, wakes whoever passed `on_change`. The answers
are a cache of what sidecars say, never written by anything else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import httpx

from patio.client import SidecarClient, SidecarError
from patio_operator.placement.fleet import NOT_SEEN, Pod, Seen

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""How long a sidecar may hold a long-poll. Also how stale an answer can be when a network fails without a word."""
PAUSES = (0.2, 0.4, 0.8, 1.6, 3.0)
"""Seconds between attempts at a sidecar that does not answer; the last one repeats."""


@dataclass
class _Followed:
    url: str
    task: asyncio.Task[None]
    seen: Seen = NOT_SEEN


class SidecarWatch:
    """Follows sidecars. Close it before its HTTP client."""

    def __init__(self, http: httpx.AsyncClient, on_change: Callable[[str], None]) -> None:
        """`on_change` is called with the namespace of a pod whose report changed."""
        self._http = http
        self._on_change = on_change
        self._followed: dict[tuple[str, str], _Followed] = {}

    def follow(self, namespace: str, pods: Iterable[Pod]) -> None:
        """Follow exactly these pods of a namespace."""
        targets = {
            (namespace, pod.uid): (pod, url) for pod in pods if not pod.leaving and (url := pod.sidecar_url) is not None
        }
        for key in [key for key in self._followed if key[0] == namespace]:
            if key not in targets or targets[key][1] != self._followed[key].url:
                self._followed.pop(key).task.cancel()
        for key, (pod, url) in targets.items():
            if key not in self._followed:
                task = asyncio.create_task(self._poll(key, pod, url), name=f"sidecar {namespace}/{pod.name}")
                self._followed[key] = _Followed(url, task)
                task.add_done_callback(partial(self._ended, key))

    def seen(self, namespace: str) -> dict[str, Seen]:
        """Return what is known of a namespace's sidecars, by pod UID."""
        return {uid: one.seen for (where, uid), one in self._followed.items() if where == namespace}

    async def close(self) -> None:
        """Stop following."""
        tasks = [one.task for one in self._followed.values()]
        self._followed.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, key: tuple[str, str], pod: Pod, url: str) -> None:
        client = SidecarClient(url, self._http)
        revision: str | None = None
        failures = 0
        while True:
            try:
                answer = await client.adapters(revision=revision, wait=POLL_SECONDS if revision else 0)
            except SidecarError as error:
                failures += 1
                revision = None
                before = self._followed[key].seen
                # One lost answer may be a connection closed while idle; two are a sidecar that is gone.
                if failures > 1 or before.answer is None:
                    problem = f"The sidecar at {url} does not answer: {error}"
                    self._set(key, pod, Seen(None, problem, before.ever_answered))
                await asyncio.sleep(PAUSES[min(failures, len(PAUSES)) - 1])
                continue
            failures = 0
            revision = answer.revision
            self._set(key, pod, Seen(answer, ever_answered=True))

    def _ended(self, key: tuple[str, str], task: asyncio.Task[None]) -> None:
        """Forget a poll that broke, so that the next pass starts another: a stale answer is no truth."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        log.error("%s broke: %s: %s", task.get_name(), type(fault).__name__, fault)
        self._followed.pop(key, None)
        self._on_change(key[0])

    def _set(self, key: tuple[str, str], pod: Pod, seen: Seen) -> None:
        followed = self._followed[key]
        if seen != followed.seen:
            followed.seen = seen
            self._on_change(pod.namespace)

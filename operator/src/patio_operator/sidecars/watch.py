"""What every sidecar reports, kept current by one long-poll each.

`follow` is given the pods that there are; for each it runs a task that asks the sidecar for its adapters and waits
for the answer to change. A change, or a sidecar that stops answering, wakes whoever passed `on_change`. The answers
are a cache of what sidecars say, never written by anything else.

A thousand sidecars are a thousand connections that say nothing for seconds. A peer that ends closes its own; one that
vanishes with its node is noticed by the kernel, which asks every second whether it is there. The polls are made with
aiohttp: `patio.client` is httpx, which takes three times the CPU for a request, and most of what an operator at rest
does are these.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any

import aiohttp
from pydantic import ValidationError

from patio.api.protocol import AdapterList
from patio.pauses import growing, spread
from patio_operator.placement.fleet import NOT_SEEN, Pod, Seen

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""How long a sidecar may hold a long-poll; so stale, too, an answer can be when a sidecar stands still."""
ANSWER_SECONDS = 3.0
"""On top of that, for the answer."""
CONNECT_SECONDS = 1.0
FIRST_AT_ONCE = 100
"""Sidecars asked for the first time, or again after a failure, at the same time. A thousand at once, on a busy machine,
are a thousand that all take too long."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 0.8
"""Between attempts at a sidecar that does not answer: one that is back is known within a second."""

_VANISHED = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    # Ends a connection whose peer acknowledges nothing for so long (ms), probes included.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000),
)


class SilentError(Exception):
    """A sidecar gave no answer that can be read."""


@dataclass
class _Followed:
    url: str
    looked: asyncio.Future[None]
    """Done when the first answer came, or did not."""
    seen: Seen = NOT_SEEN
    task: asyncio.Task[None] = field(init=False)


class SidecarWatch:
    """Follows sidecars."""

    def __init__(
        self,
        on_change: Callable[[str], None],
        now: Callable[[], datetime],
        rng: random.Random,
    ) -> None:
        """`on_change` is called with the namespace of a pod whose report changed."""
        self._on_change = on_change
        self._now = now
        self._rng = rng
        self._http: aiohttp.ClientSession | None = None
        self._first = asyncio.Semaphore(FIRST_AT_ONCE)
        self._followed: dict[str, dict[str, _Followed]] = {}

    def follow(self, namespace: str, pods: Iterable[Pod]) -> None:
        """Follow exactly these pods of a namespace."""
        targets = {pod.uid: (pod, url) for pod in pods if not pod.leaving and (url := pod.sidecar_url) is not None}
        followed = self._followed.setdefault(namespace, {})
        for uid in [uid for uid, one in followed.items() if uid not in targets or targets[uid][1] != one.url]:
            self._leave(followed.pop(uid))
        for uid, (pod, url) in targets.items():
            if uid not in followed:
                one = followed[uid] = _Followed(url, asyncio.get_running_loop().create_future())
                one.task = asyncio.create_task(self._poll(one, pod), name=f"sidecar {namespace}/{pod.name}")
                one.task.add_done_callback(partial(self._ended, namespace, uid, one))
        if not followed:
            del self._followed[namespace]

    async def looked(self, namespace: str, within: float) -> None:
        """Wait until every sidecar of a namespace has answered once, or has not, at most so many seconds."""
        waiting = [one.looked for one in self._followed.get(namespace, {}).values() if not one.looked.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=within)

    def seen(self, namespace: str) -> dict[str, Seen]:
        """Return what is known of a namespace's sidecars, by pod UID."""
        return {uid: one.seen for uid, one in self._followed.get(namespace, {}).items()}

    async def close(self) -> None:
        """Stop following."""
        every = [one for followed in self._followed.values() for one in followed.values()]
        self._followed.clear()
        for one in every:
            self._leave(one)
        await asyncio.gather(*(one.task for one in every), return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _poll(self, one: _Followed, pod: Pod) -> None:
        revision: str | None = None
        failures = 0
        while True:
            try:
                if revision is None:
                    async with self._first:
                        answer = await self._ask(one.url, None)
                else:
                    answer = await self._ask(one.url, revision)
            except SilentError as error:
                failures += 1
                revision = None
                # One lost answer may be a connection closed while idle; two are a sidecar that is gone.
                if failures > 1 or one.seen.answer is None:
                    problem = f"The sidecar at {one.url} does not answer: {error}"
                    since = one.seen.unreachable_since or self._now()
                    last = one.seen.answer or one.seen.last
                    self._set(one, pod, Seen(None, problem, one.seen.ever_answered, since, last))
                await asyncio.sleep(spread(growing(FIRST_PAUSE, LONGEST_PAUSE, failures), self._rng.random()))
                continue
            failures = 0
            revision = answer.revision
            self._set(one, pod, Seen(answer, ever_answered=True))

    async def _ask(self, url: str, revision: str | None) -> AdapterList:
        """Ask for the adapters; given a revision, wait for another one for some time.

        Raises:
            SilentError: no answer, or none of the sidecar's API.

        """
        wait = POLL_SECONDS if revision else 0.0
        query = {"revision": revision, "wait": str(wait)} if revision else None
        timeout = aiohttp.ClientTimeout(total=wait + ANSWER_SECONDS, sock_connect=CONNECT_SECONDS)
        try:
            async with self._session().get(f"{url}/v1/lora_adapters", params=query, timeout=timeout) as response:
                body = await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise SilentError(str(error) or type(error).__name__) from error
        if response.status != 200:
            raise SilentError(f"it answered {response.status}")
        try:
            return AdapterList.model_validate_json(body)
        except ValidationError:
            raise SilentError("it answered with something else than the sidecar's API") from None

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # No limit: one connection for each pod. A proxy of the environment is never on the way.
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, socket_factory=_socket)
            self._http = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self._http

    def _ended(self, namespace: str, uid: str, one: _Followed, task: asyncio.Task[None]) -> None:
        """Forget a poll that broke, so that the next pass starts another: a stale answer is no truth."""
        if task.cancelled() or (fault := task.exception()) is None:
            return
        log.error("%s broke: %s: %s", task.get_name(), type(fault).__name__, fault)
        self._leave(one)
        if self._followed.get(namespace, {}).get(uid) is one:
            del self._followed[namespace][uid]
        self._on_change(namespace)

    def _set(self, one: _Followed, pod: Pod, seen: Seen) -> None:
        if not one.looked.done():
            one.looked.set_result(None)
        if seen != one.seen:
            one.seen = seen
            self._on_change(pod.namespace)

    @staticmethod
    def _leave(one: _Followed) -> None:
        one.task.cancel()
        if not one.looked.done():
            one.looked.set_result(None)


def _socket(address: Any) -> socket.socket:
    """Make a socket whose peer's end is noticed, however it comes. `address`: as getaddrinfo has it."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    for level, option, value in _VANISHED:
        made.setsockopt(level, option, value)
    return made

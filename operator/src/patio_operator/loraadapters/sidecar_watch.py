"""What every sidecar reports, kept current by one long-poll each.

`follow` is given the pods that there are; for each it runs a task that asks the sidecar for its adapters and waits
for the answer to change. A change, or a sidecar that stops answering, causes a call of `on_change`. The answers
are a cache of what sidecars say, never written by anything else.

A thousand sidecars are a thousand connections that say nothing for seconds. A peer that ends closes its own; one that
vanishes with its node is noticed by the kernel, which asks every second whether it is there. The polls are made with
aiohttp: `patio_protocol.client` is httpx, which takes three times the CPU for a request, and most of what an operator
at rest does are these.

Users who may create pods decide what answers at their addresses. So no redirect is followed, nothing is unpacked, an
answer has a size and a time, addresses that are no pod's are not asked, and one that answers without end is asked less
often. `loraadapters.sidecar_answer` reads the answers.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Any

import aiohttp

from patio_operator.loraadapters.planner.observation import UNOBSERVED, Answer, Observation
from patio_operator.loraadapters.sidecar_answer import read_answer
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.backoff import exponential, with_jitter

log = logging.getLogger(__name__)

POLL_SECONDS = 10.0
"""How long a sidecar may hold a long-poll; so stale, too, an answer can be when a sidecar stands still."""
ANSWER_SECONDS = 3.0
"""On top of that, for the answer."""
CONNECT_SECONDS = 1.0
FIRST_AT_ONCE = 100
"""Sidecars asked for the first time, or again after a failure, at the same time. A thousand at once, on a busy machine,
are a thousand that all take too long."""
FIRST_AT_ONCE_OF_A_NAMESPACE = 50
"""Of these: one namespace whose pods all fall silent leaves room for others."""
BEGUN_AT_ONCE = 500
"""Pods that begin to be followed in one turn of the event loop."""
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 0.8
"""Between attempts at a sidecar that does not answer: one that is back is known within a second."""

MOST_BYTES = 4 * 1024 * 1024
"""Of an answer. A thousand adapters are a third of a MiB."""
QUICK_SECONDS = 0.5
"""A long-poll that is answered sooner tells of a change."""
QUICK_ANSWERS = 10
"""So many in a row are the steps of a load; after that the next look waits, longer each time."""
QUICK_PAUSE = 0.1
LONGEST_QUICK_PAUSE = 1.0
READING_SHARE = 20
"""The next look waits so many times as long as the answer took to be read, also when it could not be."""
LONG_READING = 0.02
"""Seconds of CPU; a thousand adapters take half of it. The sidecars of a namespace whose answers take longer wait for
each other's: together they get no more of the event loop than one."""
LONGEST_REST = 30.0
LOG_EVERY = 30.0
"""Seconds between lines of the log about a fault of the operator's own."""
LONGEST_PROBLEM = 300
"""Characters of a library's words."""

_VANISHED = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    # Ends a connection whose peer acknowledges nothing for so long (ms), probes included.
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2000),
)


class Reach(StrEnum):
    """How a sidecar that is followed answers."""

    UNKNOWN = "unknown"
    """It was not asked yet, or the operator cannot ask."""
    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"
    REJECTING = "rejecting"
    """Something answers, but not with the sidecar's adapters."""


class NoAnswerError(Exception):
    """A sidecar gave no answer that can be read."""

    def __init__(self, message: str, reach: Reach = Reach.UNREACHABLE) -> None:
        super().__init__(message)
        self.reach = reach


class LocalResourceError(Exception):
    """The operator could not ask: that says nothing about the sidecar."""


LOCAL_ERRORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL))
"""What connecting fails with when it is this process, or its node, that has run out of something."""


@dataclass
class _Followed:
    url: str
    first_answers: asyncio.Future[None]
    """Done when the first answer came, or did not."""
    seen: Observation = UNOBSERVED
    reach: Reach | None = Reach.UNKNOWN
    """As what it is counted; None: it is not followed any more."""
    task: asyncio.Task[None] = field(init=False)


class SidecarWatch:
    """Follows sidecars."""

    def __init__(
        self,
        on_change: Callable[[str], None],
        now: Callable[[], datetime],
        rng: random.Random,
        *,
        ask_loopback: bool = False,
    ) -> None:
        """Take what is called with the namespace of a pod whose report changed, a clock, and dice.

        `ask_loopback`: also ask at addresses of this machine, where sidecars of tests and benchmarks listen.
        """
        self._on_change = on_change
        self._now = now
        self._rng = rng
        self._ask_loopback = ask_loopback
        self._http: aiohttp.ClientSession | None = None
        self._first = asyncio.Semaphore(FIRST_AT_ONCE)
        self._first_of: dict[str, asyncio.Semaphore] = {}
        self._log_next = 0.0
        self._rested: dict[str, float] = {}
        """By namespace, until when those rest whose answers took long to be read."""
        self._followed: dict[str, dict[str, _Followed]] = {}
        self._reached: Counter[Reach] = Counter()
        self.on_call: Callable[[str, int, float], None] = lambda call, status, seconds: None
        """Is called with each call: list, or watch for a long-poll; the status of the answer, 0 for none; seconds."""

    @property
    def reached(self) -> dict[str, int]:
        """How many of the sidecars that are followed answer, by how they do."""
        return {reach.value: self._reached[reach] for reach in Reach}

    def follow(self, namespace: str, pods: Iterable[EnginePod]) -> bool:
        """Follow exactly these pods of a namespace; return whether it is to be called again, after others' turn."""
        targets = {pod.uid: (pod, url) for pod in pods if not pod.leaving and (url := pod.sidecar_url) is not None}
        followed = self._followed.setdefault(namespace, {})
        for uid in [uid for uid, sidecar in followed.items() if uid not in targets or targets[uid][1] != sidecar.url]:
            self._leave(followed.pop(uid))
        begun = 0
        for uid, (pod, url) in targets.items():
            if uid not in followed:
                if begun == BEGUN_AT_ONCE:
                    return True
                begun += 1
                sidecar = followed[uid] = _Followed(url, asyncio.get_running_loop().create_future())
                self._reached[Reach.UNKNOWN] += 1
                sidecar.task = asyncio.create_task(self._poll(sidecar, pod), name=f"sidecar {namespace}/{pod.name}")
                sidecar.task.add_done_callback(partial(self._ended, namespace, uid, sidecar))
        if not followed:
            del self._followed[namespace]
            self._first_of.pop(namespace, None)
            self._rested.pop(namespace, None)
        return False

    async def first_answers(self, namespace: str, within: float) -> None:
        """Wait until every sidecar of a namespace has answered once, or has not, at most so many seconds."""
        waiting = [
            sidecar.first_answers
            for sidecar in self._followed.get(namespace, {}).values()
            if not sidecar.first_answers.done()
        ]
        if waiting:
            await asyncio.wait(waiting, timeout=within)

    def seen(self, namespace: str) -> dict[str, Observation]:
        """Return what is known of a namespace's sidecars, by pod UID."""
        return {uid: sidecar.seen for uid, sidecar in self._followed.get(namespace, {}).items()}

    async def close(self) -> None:
        """Stop following."""
        every = [sidecar for followed in self._followed.values() for sidecar in followed.values()]
        self._followed.clear()
        for sidecar in every:
            self._leave(sidecar)
        await asyncio.gather(*(sidecar.task for sidecar in every), return_exceptions=True)
        if self._http is not None:
            await self._http.close()
            self._http = None

    async def _poll(self, sidecar: _Followed, pod: EnginePod) -> None:
        problem = address_problem(pod.ip or "", loopback=self._ask_loopback)
        if problem is not None:
            log.warning("sidecar of %s/%s is not polled: %s", pod.namespace, pod.name, problem)
            self._count(sidecar, Reach.UNREACHABLE)
            self._set(sidecar, pod, Observation(None, problem, unreachable_since=self._now()))
            return
        revision: str | None = None
        failures = quick = 0
        clock = asyncio.get_running_loop().time
        while True:
            polled_at, pause = clock(), 0.0
            try:
                if revision is None:
                    of_namespace = asyncio.Semaphore(FIRST_AT_ONCE_OF_A_NAMESPACE)
                    async with self._first_of.setdefault(pod.namespace, of_namespace), self._first:
                        body = await self._ask(sidecar.url, None)
                else:
                    body = await self._ask(sidecar.url, revision)
                came, spent = clock(), time.thread_time()
                try:
                    answer = _read(body)
                finally:
                    pause = self._rest(pod.namespace, time.thread_time() - spent)
            except LocalResourceError as error:
                failures += 1
                revision = None
                self._log_local_error(pod, error)
                if sidecar.seen.unreachable_since is None:  # else it is known for worse, and stays so
                    self._count(sidecar, Reach.UNKNOWN)
                    self._set(sidecar, pod, _not_asked(sidecar.seen, str(error)))
            except NoAnswerError as error:
                failures += 1
                revision = None
                # One lost answer may be a connection closed while idle; two are a sidecar that is gone.
                if failures > 1 or sidecar.seen.answer is None:
                    problem = f"The sidecar at {sidecar.url} does not answer: {error}"
                    since = sidecar.seen.unreachable_since or self._now()
                    last = sidecar.seen.answer or sidecar.seen.last
                    self._count(sidecar, error.reach)
                    self._set(sidecar, pod, Observation(None, problem, sidecar.seen.ever_answered, since, last))
            else:
                failures = 0
                quick = quick + 1 if came - polled_at < QUICK_SECONDS else 0
                revision = answer.revision
                self._count(sidecar, Reach.REACHABLE)
                self._set(sidecar, pod, Observation(answer, ever_answered=True))
                if quick > QUICK_ANSWERS:
                    pause = max(pause, exponential(QUICK_PAUSE, LONGEST_QUICK_PAUSE, quick - QUICK_ANSWERS))
                if pause > QUICK_PAUSE / 10:
                    await asyncio.sleep(pause)
                continue
            requeue_after = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), self._rng.random())
            await asyncio.sleep(max(pause, requeue_after))

    def _rest(self, namespace: str, spent: float) -> float:
        """Return how long a sidecar rests whose answer took so long to be read."""
        if spent < LONG_READING:
            return READING_SHARE * spent
        now = asyncio.get_running_loop().time()
        until = self._rested[namespace] = max(now, self._rested.get(namespace, 0.0)) + READING_SHARE * spent
        return min(until - now, LONGEST_REST)

    async def _ask(self, url: str, revision: str | None) -> bytes:
        """Ask for the adapters; given a revision, wait for another one for some time.

        Raises:
            NoAnswerError: no answer, or none of the sidecar's API.
            LocalResourceError: it could not be asked.

        """
        wait = POLL_SECONDS if revision else 0.0
        query = {"revision": revision, "wait": str(wait)} if revision else None
        within = wait + ANSWER_SECONDS
        timeout = aiohttp.ClientTimeout(total=within, sock_connect=CONNECT_SECONDS)
        get = self._session().get(f"{url}/v1/lora_adapters", params=query, timeout=timeout, allow_redirects=False)
        status: int | None = 0
        began = time.perf_counter()
        try:
            async with get as response:
                status = response.status
                if response.status != 200:
                    followed = ", and redirects are not followed" if 300 <= response.status < 400 else ""
                    raise NoAnswerError(f"it answered {response.status}{followed}", Reach.REJECTING)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise NoAnswerError(
                        "its answer is compressed, and the request does not allow that", Reach.REJECTING
                    )
                return await _limited(response.content)
        except asyncio.CancelledError:
            status = None  # the pod is gone, or this replica stops leading: that says nothing of the sidecar
            raise
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _cause(error, within) from error
        finally:
            if status is not None:
                self.on_call("watch" if revision else "list", status, time.perf_counter() - began)

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            # No limit: one connection for each pod. A proxy of the environment is never on the way.
            connector = aiohttp.TCPConnector(limit=0, use_dns_cache=False, socket_factory=_socket)
            self._http = aiohttp.ClientSession(
                connector=connector,
                trust_env=False,
                auto_decompress=False,
                headers={"Accept-Encoding": "identity"},
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._http

    def _log_local_error(self, pod: EnginePod, error: LocalResourceError) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._log_next:  # all sidecars have it at the same time
            self._log_next = now + LOG_EVERY
            log.error("the operator cannot poll sidecars, for example %s/%s: %s", pod.namespace, pod.name, error)

    def _ended(self, namespace: str, uid: str, sidecar: _Followed, task: asyncio.Task[None]) -> None:
        """Forget a poll that broke, so that the next pass starts another: a stale answer is no truth."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("%s failed: %s: %s", task.get_name(), type(error).__name__, error)
        self._leave(sidecar)
        if self._followed.get(namespace, {}).get(uid) is sidecar:
            del self._followed[namespace][uid]
        self._on_change(namespace)

    def _set(self, sidecar: _Followed, pod: EnginePod, seen: Observation) -> None:
        if not sidecar.first_answers.done():
            sidecar.first_answers.set_result(None)
        if seen != sidecar.seen:
            sidecar.seen = seen
            self._on_change(pod.namespace)

    def _count(self, sidecar: _Followed, reach: Reach) -> None:
        if sidecar.reach is not None:
            self._reached[sidecar.reach] -= 1
            self._reached[reach] += 1
            sidecar.reach = reach

    def _leave(self, sidecar: _Followed) -> None:
        if sidecar.reach is not None:
            self._reached[sidecar.reach] -= 1
            sidecar.reach = None
        sidecar.task.cancel()
        if not sidecar.first_answers.done():
            sidecar.first_answers.set_result(None)


def address_problem(ip: str, *, loopback: bool = False) -> str | None:
    """Say why nothing is asked at an address: no pod of a cluster's network has it. None: it may be asked."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return f"The pod's address {ip[:64]!r} is not an IP address."
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback and loopback:
        return None
    if address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast:
        return f"The pod's address {ip} is not in a pod network, so the operator does not poll it."
    return None


def _read(body: bytes) -> Answer:
    try:
        return read_answer(body)
    except ValueError:
        raise NoAnswerError("its answer is not one of the sidecar's API", Reach.REJECTING) from None


def _not_asked(before: Observation, message: str) -> Observation:
    """Return what is known of a sidecar that could not be asked: what it said last, and nothing against it."""
    return Observation(
        None,
        f"The operator cannot poll the sidecar: {message}",
        before.ever_answered,
        None,
        before.answer or before.last,
    )


async def _limited(content: aiohttp.StreamReader) -> bytes:
    """Read an answer that is not too long."""
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MOST_BYTES:
            raise NoAnswerError(f"its answer is longer than {MOST_BYTES} bytes", Reach.REJECTING)
    return bytes(body)


def _cause(error: Exception, within: float) -> NoAnswerError | LocalResourceError:
    """Say why there is no answer: by the cause, not by what the library calls it."""
    if isinstance(error, TimeoutError):
        # aiohttp has time-outs of connecting and of answering among them.
        where = "no connection" if isinstance(error, aiohttp.ConnectionTimeoutError) else "no answer"
        return NoAnswerError(f"{where} within {CONNECT_SECONDS if where == 'no connection' else within:g} s")
    if isinstance(error, OSError) and error.errno is not None:
        name = errno.errorcode.get(error.errno, str(error.errno))
        if error.errno in LOCAL_ERRORS:
            return LocalResourceError(f"{os.strerror(error.errno)} ({name})")
        if error.errno == errno.ECONNREFUSED:
            return NoAnswerError("the connection is refused")
        return NoAnswerError(f"{os.strerror(error.errno)} ({name})")
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return NoAnswerError("the connection was closed without an answer")
    if isinstance(error, aiohttp.ClientPayloadError):
        return NoAnswerError("the connection was closed in the middle of the answer")
    return NoAnswerError(f"{type(error).__name__}: {error}"[:LONGEST_PROBLEM])


def _socket(address: Any) -> socket.socket:
    """Make a socket whose peer's end is noticed, however it comes. `address`: as getaddrinfo has it."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    for level, option, value in _VANISHED:
        made.setsockopt(level, option, value)
    return made

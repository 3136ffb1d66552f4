"""Engines at URLs that a person gave, without Kubernetes: what each of them serves, asked every second.

Engines with the same model are workers of one ModelEndpoint, named `static/MODEL`. An engine that refuses a connection
is no worker at once. One that does not answer in time, or answers something else, stays a worker until it has done so
three times: a busy engine answers late.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import httpx

from patio_gateway.bounded_body import read_body
from patio_gateway.snapshot import Address, Client, Model, Snapshot, Worker
from patio_gateway.sources.listing import MOST_BYTES, Listing, read_listing

log = logging.getLogger(__name__)

PERIOD: Final = 1.0
"""Seconds between two looks at an engine."""

TIMEOUT: Final = 5.0
"""Seconds that an engine has to answer a look."""

MOST_FAILURES: Final = 3
"""Looks in a row without an answer after which an engine is no worker any more."""

NAMESPACE: Final = "static"


class EngineUrlError(ValueError):
    """What was given is no engine. The text says what to do."""


@dataclass(frozen=True)
class Engine:
    """An engine as a person gave it."""

    host: str
    port: int
    model: str | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def parse_engine(text: str) -> Engine:
    """Return the engine of `URL` or `URL=MODEL`; raise `EngineUrlError`."""
    url, _, model = text.partition("=")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise EngineUrlError(f"--engine {text}: {error}.") from None
    if parts.scheme != "http" or not host or parts.username or parts.query or parts.fragment:
        raise EngineUrlError(f"--engine {text}: expected http://HOST:PORT or http://HOST:PORT=MODEL.")
    if parts.path not in ("", "/", "/v1", "/v1/"):
        raise EngineUrlError(f"--engine {text}: an engine has no path but /v1.")
    return Engine(host, port or 80, model or None)


@dataclass(frozen=True)
class EngineState:
    """What is known of an engine."""

    engine: Engine
    address: Address | None = None
    """None: no worker now."""
    listing: Listing | None = None
    """What it served when it last answered."""
    failures: int = 0


def after_answer(seen: EngineState, address: Address, listing: Listing) -> EngineState:
    """Return what is known after an engine answered."""
    return replace(seen, address=address, listing=listing, failures=0)


def after_failure(seen: EngineState, is_refused: bool) -> EngineState:
    """Return what is known after an engine did not answer, or refused the connection."""
    failures = seen.failures + 1
    return replace(seen, failures=failures, address=None if is_refused or failures >= MOST_FAILURES else seen.address)


def models_of(engines: Iterable[EngineState], public: bool = False) -> tuple[Model, ...]:
    """Return the ModelEndpoints of engines. A name that two of them have belongs to the first."""
    grouped: dict[str, list[EngineState]] = {}
    for seen in engines:
        name = seen.engine.model or (seen.listing.bases[0] if seen.listing and seen.listing.bases else None)
        if name is not None:
            grouped.setdefault(name, []).append(seen)
    taken = set(grouped)
    models = []
    for name, members in grouped.items():
        listed = [base for seen in members if seen.listing for base in seen.listing.bases]
        aliases = [alias for alias in dict.fromkeys(listed) if alias not in taken]
        taken.update(aliases)
        adapters = {adapter for seen in members if seen.listing for adapter in seen.listing.adapters}
        models.append(
            Model(
                endpoint=f"{NAMESPACE}/{name}",
                names=(name, *aliases),
                adapters=tuple(sorted(adapters - taken)),
                workers=tuple(_worker(seen, seen.address) for seen in members if seen.address),
                can_wake=False,
                public=public,
            )
        )
        taken.update(adapters)
    return tuple(models)


def _worker(seen: EngineState, address: Address) -> Worker:
    return Worker(
        name=f"{seen.engine.host}:{seen.engine.port}",
        address=address,
        adapters=seen.listing.adapters if seen.listing else frozenset(),
    )


class StaticSource:
    """Looks at engines, and publishes a snapshot whenever something is another than before."""

    def __init__(self, engines: Sequence[Engine], clients: Callable[[], tuple[Client, ...] | None]) -> None:
        self._seen = [EngineState(engine) for engine in engines]
        self._clients = clients
        self._changed = asyncio.Event()

    async def run(self, publish: Callable[[Snapshot], Awaitable[None]]) -> None:
        """Publish what is known: first when each engine was looked at once, then at each change. It never returns."""
        async with asyncio.TaskGroup() as group:
            first = [asyncio.Event() for _ in self._seen]
            for index, event in enumerate(first):
                group.create_task(self._look(index, event))
            for event in first:
                await event.wait()
            last = None
            while True:
                self._changed.clear()
                # None: no key is needed. They are read each second, since the file of keys may be another one.
                clients = self._clients()
                snapshot = Snapshot(models=models_of(self._seen), clients=clients or (), closed=clients is not None)
                if snapshot != last:
                    last = snapshot
                    await publish(snapshot)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PERIOD):
                        await self._changed.wait()

    async def _look(self, index: int, first: asyncio.Event) -> None:
        engine = self._seen[index].engine
        async with httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False, trust_env=False) as client:
            while True:
                before = self._seen[index]
                after = await _looked_at(client, before)
                if after != before:
                    self._seen[index] = after
                    if (after.address, after.listing) != (before.address, before.listing):
                        log.info(
                            "engine_seen engine=%s worker=%s adapters=%d",
                            json.dumps(engine.url),
                            str(after.address is not None).lower(),
                            len(after.listing.adapters) if after.listing else 0,
                        )
                        self._changed.set()
                first.set()
                await asyncio.sleep(PERIOD)


async def _looked_at(client: httpx.AsyncClient, seen: EngineState) -> EngineState:
    try:
        async with asyncio.timeout(TIMEOUT):
            address = await _resolved(seen.engine)
            listing = read_listing(await _fetched(client, seen.engine))
    except httpx.ConnectError as error:
        log.debug("engine_refused engine=%s error=%s", json.dumps(seen.engine.url), json.dumps(str(error)))
        return after_failure(seen, is_refused=True)
    except (httpx.HTTPError, TimeoutError, ValueError, OSError) as error:
        log.warning("engine_failed engine=%s error=%s", json.dumps(seen.engine.url), json.dumps(repr(error)))
        return after_failure(seen, is_refused=False)
    return after_answer(seen, address, listing)


async def _resolved(engine: Engine) -> Address:
    found = await asyncio.get_running_loop().getaddrinfo(engine.host, engine.port, type=socket.SOCK_STREAM)
    host = found[0][4][0]
    return str(host), engine.port


async def _fetched(client: httpx.AsyncClient, engine: Engine) -> bytes:
    async with client.stream("GET", f"{engine.url}/v1/models") as response:
        if response.status_code != 200:
            raise ValueError(f"/v1/models was answered with {response.status_code}")
        return await read_body(response, MOST_BYTES)

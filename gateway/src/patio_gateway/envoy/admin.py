"""Asks Envoy's administration, over its socket: whether it serves, what it has taken, and to drain.

Each call has a timeout of its own and reads a bounded answer. What it raises is `AdminError` alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol, Self

import httpx

from patio_gateway.bounded_body import TooLongError, read_body

MOST_BYTES = 16 * 1024 * 1024
"""Of one answer."""


class AdminError(Exception):
    """Envoy's administration did not answer, or not with 200."""


class Taken(Protocol):
    """A file and who reads it."""

    @property
    def version(self) -> str:
        """What a reader says that it has."""

    @property
    def readers(self) -> tuple[str, ...]:
        """Prefixes of the readers' statistics."""


class Admin:
    """Envoy's administration."""

    def __init__(self, socket: str, timeout: float = 5.0) -> None:
        self._client = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=socket), base_url="http://envoy", timeout=timeout
        )

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def _text(self, method: str, path: str, **query: str) -> str:
        try:
            async with self._client.stream(method, path, params=query) as response:
                body = await read_body(response, MOST_BYTES)
        except TooLongError as error:
            raise AdminError(f"Envoy's answer to {path} is {error}.") from None
        except httpx.HTTPError as error:
            raise AdminError(f"Envoy's administration did not answer {path}: {error!r}") from error
        text = body.decode("utf-8", "replace")
        if response.status_code != 200:
            raise AdminError(f"Envoy answered {path} with {response.status_code}: {text[:200]}")
        return text

    async def serves(self) -> bool:
        """Return whether Envoy is live and takes requests."""
        try:
            return (await self._text("GET", "/ready")).strip() == "LIVE"
        except AdminError:
            return False

    async def versions(self) -> Mapping[str, str]:
        """Return the version that each reader of a file has, by the prefix of its statistics."""
        found = await self._text("GET", "/stats", filter=r"\.version_text$", type="TextReadouts")
        return {
            name.strip().removesuffix(".version_text"): value.strip().strip('"')
            for name, _, value in (line.partition(":") for line in found.splitlines())
        }

    async def rejected(self) -> Mapping[str, int]:
        """Return how often each reader refused a file, by the prefix of its statistics."""
        found = await self._text("GET", "/stats", filter=r"\.update_rejected$")
        return {
            name.strip().removesuffix(".update_rejected"): int(value)
            for name, _, value in (line.partition(":") for line in found.splitlines())
            if value.strip().isdecimal()
        }

    async def missing(self, files: Iterable[Taken]) -> list[str]:
        """Return the readers that have not taken the newest of these files."""
        has = await self.versions()
        return [reader for file in files for reader in file.readers if has.get(reader) != file.version]

    async def wait_until_taken(self, files: Iterable[Taken], timeout: float) -> list[str]:
        """Wait until Envoy has taken these files; return the readers that have not within so many seconds."""
        wanted = tuple(files)
        deadline = asyncio.get_running_loop().time() + timeout
        pause = 0.005
        while True:
            late = await self.missing(wanted)
            if not late or asyncio.get_running_loop().time() > deadline:
                return late
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.1)

    async def configuration(self) -> str:
        """Return all that Envoy says of its configuration, as JSON."""
        return await self._text("GET", "/config_dump", include_eds="")

    async def active_requests(self) -> int:
        """Return how many requests are on their way."""
        found = await self._text("GET", "/stats", filter=r"^http\.requests\.downstream_rq_active$")
        _, _, value = found.partition(":")
        return int(value) if value.strip().isdecimal() else 0

    async def prometheus(self, names: str) -> str:
        """Return the statistics whose names this regular expression finds, in Prometheus' format."""
        return await self._text("GET", "/stats/prometheus", filter=names)

    async def drain(self) -> None:
        """Let clients close their connections; requests go on."""
        await self._text("POST", "/drain_listeners?graceful&skip_exit")

    async def quit(self) -> None:
        """End Envoy."""
        await self._text("POST", "/quitquitquit")

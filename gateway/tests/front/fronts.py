"""A front in the test's own process, asked as Envoy asks it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from patio_gateway.app import Knowledge
from patio_gateway.front.app import Limits, build
from patio_gateway.snapshot import Client, Model, Snapshot, Worker
from patio_testing.deadline import DEADLINE
from patio_testing.model_gateway import until

CHAT = "/v1/chat/completions"
HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
WORKER = Worker("m-0", ("127.0.0.1", 1))


@dataclass
class Front:
    """A front, and ways to ask it."""

    app: Any
    knowledge: Knowledge
    http: httpx.AsyncClient

    def publish(self, *models: Model, closed: bool = False, clients: tuple[Client, ...] = ()) -> None:
        """Let the front know other models."""
        self.knowledge.publish(Snapshot(models=models, clients=clients, closed=closed))

    async def ask(self, model: str = "m", body: Any = None, path: str = CHAT, **headers: str) -> httpx.Response:
        """Send a request as Envoy does after it found no worker; `_` in names of headers stands for `-`."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if model:
            sent["x-patio-model"] = model
        content = body if isinstance(body, bytes) else json.dumps(HELLO if body is None else body).encode()
        return await self.http.post(path, content=content, headers={"content-type": "application/json", **sent})

    async def demand(self, after: int | None = None) -> Any:
        """Ask as control does."""
        answer = await self.http.get("/demand", params={} if after is None else {"after": after})
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def held(self, count: int, endpoint: str = "a/m") -> None:
        """Wait until so many requests are held for an endpoint."""

        async def reached() -> bool:
            found = (await self.demand())["endpoints"]
            return sum(each["held"] for each in found if each["endpoint"] == endpoint) == count

        await until(reached, f"{count} requests are held")

    def begin(self, count: int, **headers: str) -> list[asyncio.Task[httpx.Response]]:
        """Begin so many requests."""
        return [asyncio.create_task(self.ask(**headers)) for _ in range(count)]


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Return the error of an answer, whose shape is OpenAI's."""
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    if answer.status_code in (429, 503):
        assert int(answer.headers["retry-after"]) > 0
        assert answer.headers["x-envoy-ratelimited"] == "true"
    found: dict[str, Any] = body["error"]
    return found


@asynccontextmanager
async def front(
    *models: Model,
    limits: Limits | None = None,
) -> AsyncIterator[Front]:
    """Return a front that knows some models, and needs no key."""
    knowledge = Knowledge()
    knowledge.publish(Snapshot(models=models, closed=False))
    app = build(knowledge, limits=limits)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway", timeout=DEADLINE) as http:
        yield Front(app, knowledge, http)

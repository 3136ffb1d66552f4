"""The real vLLM on this machine: the recordings still hold, and each adapter answers in its own words."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from e2e_engine import model
from e2e_engine.process import running_vllm
from engine_double.recorded import more_vllm_exchanges
from patio.engine.vllm import Vllm

TOKENS = 400
"""Some seconds of an answer, so that there is time to change something under it."""

TRIES = 10
"""Answers in which a change may come too late to be seen."""

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM masks paths under /tmp in its errors, and the recordings were made with such paths.
    return model.write(tmp_path_factory.mktemp("e2e") / "made")


@pytest.fixture(scope="module")
def engine(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with (
        running_vllm(models, tmp_path_factory.mktemp("scratch"), print) as process,
        httpx.Client(base_url=process.url, timeout=60) as client,
    ):
        yield client


def completion(engine: httpx.Client, name: str) -> str:
    body = {"model": name, "prompt": model.PROMPT, "max_tokens": 12, "temperature": 0}
    answer = engine.post("/v1/completions", json=body)
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_base_and_adapters_differ_and_an_unloaded_one_is_silent(engine: httpx.Client, models: Path) -> None:
    for name in model.ADAPTERS:
        path = str(models / "adapters" / name)
        engine.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path}).raise_for_status()
    texts = {name: completion(engine, name) for name in (model.NAME, *model.ADAPTERS)}
    assert len(set(texts.values())) == len(texts), texts
    assert len(set(texts[model.NAME].split())) > 3, "words, not one word again and again"
    for name in model.ADAPTERS:
        engine.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()
    unloaded = engine.post("/v1/completions", json={"model": "lora-a", "prompt": model.PROMPT})
    assert unloaded.status_code == 404


class Swapped:
    """The adapter `swapped` of a real vLLM, over HTTP."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def load(self, path: str, **more: object) -> None:
        order = {"lora_name": "swapped", "lora_path": path, **more}
        (await self.client.post("/v1/load_lora_adapter", json=order)).raise_for_status()

    async def unload(self) -> None:
        (await self.client.post("/v1/unload_lora_adapter", json={"lora_name": "swapped"})).raise_for_status()

    async def listed(self) -> dict[str, str]:
        cards = (await self.client.get("/v1/models")).json()["data"]
        return {card["id"]: card["root"] for card in cards if card.get("parent")}

    async def completion(self, change: Callable[[], Awaitable[None]] | None = None) -> str:
        """Return a long answer; with a change made once it has begun."""
        body = {"model": "swapped", "prompt": model.PROMPT, "max_tokens": TOKENS, "temperature": 0}
        text = ""
        request = {**body, "ignore_eos": True, "stream": True}
        async with self.client.stream("POST", "/v1/completions", json=request) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    text += json.loads(line.removeprefix("data: "))["choices"][0]["text"]
                if text and change is not None:
                    await change()
                    change = None
        return text


async def test_only_load_in_place_changes_weights_of_a_running_request(engine: httpx.Client, models: Path) -> None:
    """What the engine double shows, and what the sidecar's way to replace weights rests on."""
    url = str(engine.base_url)
    first, second = (str(models / "adapters" / name) for name in model.ADAPTERS)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        swapped = Swapped(client)
        whole = []
        for path in (second, first):
            await swapped.load(path)
            whole.append(await swapped.completion())
            await swapped.unload()

        async def replaced() -> None:
            await Vllm(url.rstrip("/"), client, None).replace("swapped", second)

        async def in_place() -> None:
            await swapped.load(second, load_inplace=True)

        async def output_during(change: Callable[[], Awaitable[None]]) -> str:
            await swapped.load(first)
            text = await swapped.completion(change)
            assert await swapped.listed() == {"swapped": second}, "and no trial is left"
            await swapped.unload()
            return text

        assert await output_during(replaced) == whole[1], "by the old weights to its end"
        # On a busy machine the load can come when the engine has already made the whole answer.
        for _ in range(TRIES):
            if (mixed := await output_during(in_place)) not in whole:
                break
        assert mixed not in whole, "a mix"


def test_recordings_that_the_double_is_compared_with_are_true(engine: httpx.Client, models: Path) -> None:
    differences = []
    for exchange in more_vllm_exchanges():
        if exchange.section != "lora":
            continue
        body = exchange.body.replace("/srv/e2e", str(models)) if exchange.body is not None else None
        answer = engine.request(exchange.method, exchange.path, content=body, headers=dict(exchange.headers))
        text = answer.text.replace(str(models), "/srv/e2e")
        if answer.status_code != exchange.status:
            differences.append(f"{exchange.name}: {answer.status_code} {text}, recorded {exchange.status}")
        elif answer.status_code >= 400 and text != exchange.answer:
            differences.append(f"{exchange.name}: {text}, recorded {exchange.answer}")
    assert not differences, "\n".join(differences)

"""The real vLLM on this machine: the recordings still hold, and each adapter answers in its own words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from e2e_engine import model
from e2e_engine.process import running_vllm
from engine_double.recorded import more_vllm_exchanges

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


def say(engine: httpx.Client, name: str) -> str:
    body = {"model": name, "prompt": model.PROMPT, "max_tokens": 12, "temperature": 0}
    answer = engine.post("/v1/completions", json=body)
    answer.raise_for_status()
    text: str = answer.json()["choices"][0]["text"]
    return text


def test_base_and_adapters_answer_differently_and_an_unloaded_one_not_at_all(
    engine: httpx.Client, models: Path
) -> None:
    for name in model.ADAPTERS:
        path = str(models / "adapters" / name)
        engine.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": path}).raise_for_status()
    said = {name: say(engine, name) for name in (model.NAME, *model.ADAPTERS)}
    assert len(set(said.values())) == len(said), said
    assert len(set(said[model.NAME].split())) > 3, "words, not one word again and again"
    for name in model.ADAPTERS:
        engine.post("/v1/unload_lora_adapter", json={"lora_name": name}).raise_for_status()
    gone = engine.post("/v1/completions", json={"model": "lora-a", "prompt": model.PROMPT})
    assert gone.status_code == 404


def test_the_recordings_that_the_double_is_held_to_are_still_true(engine: httpx.Client, models: Path) -> None:
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

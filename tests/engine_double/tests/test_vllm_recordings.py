"""The double against vLLM's recordings, exchange by exchange, in the order in which they were made."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from conftest import AdapterShop
from engine_double import running_double
from engine_double.recorded import Exchange, more_vllm_exchanges, vllm_exchanges
from engine_double.server import Double

NOT_DOUBLED = {
    "lora: tokenize": "nothing in Patio asks for tokens",
    "plain: no key: /tokenize": "nothing in Patio asks for tokens",
}
"""Recorded exchanges that the double does not claim to answer, each with its reason."""

VOLATILE = {"id", "created", "system_fingerprint"}


def comparable(answer: str, texts: dict[str, str] | None = None) -> Any:
    """An answer without what changes from call to call; generated texts are replaced by what they are equal to."""
    if answer.startswith("data: "):
        events = [line.removeprefix("data: ") for line in answer.splitlines() if line]
        return [event if event == "[DONE]" else comparable(event) for event in events]
    try:
        return _without_volatile(json.loads(answer))
    except json.JSONDecodeError:
        return answer


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: "..." if key in VOLATILE and isinstance(one, str | int) and "root" not in value else _without_volatile(one)
            for key, one in value.items()
            if not (key == "created" and "root" in value)
        }
    if isinstance(value, list):
        return [_without_volatile(one) for one in value]
    return value


@pytest.fixture
async def lora_server(shop: AdapterShop) -> AsyncIterator[Double]:
    for name in ("lora-a", "lora-b"):
        shop.write(f"srv/e2e/adapters/{name}")
    shop.write_bad(
        "srv/e2e/adapters/bad",
        {
            "rank": "rank-32",
            "dora": "dora",
            "weights": "no-weights",
            "truncated": "truncated",
            "config": "broken-config",
        },
    )
    (shop.root / "srv/e2e/model").mkdir()
    async with running_double(engine="vllm", model=f"{shop.root}/srv/e2e/model") as double:
        yield double

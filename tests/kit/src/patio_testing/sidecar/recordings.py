"""What the real engines answered to loads and unloads, taken out of the recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def vllm_answers(recordings: Path) -> Iterator[tuple[str, int, str]]:
    """Yield path, status and body of every load and unload in the recording."""
    text = (recordings / "vllm/api-0.32.0.md").read_text()
    for call in text.split("\n--- ")[1:]:
        command, _, rest = call.partition("\n")
        answered = re.search(r"^\[(\d+)\]", rest, re.M)
        path = re.search(r"localhost:8000(/v1/(?:un)?load_lora_adapter)", command)
        if path and answered:
            yield path[1], int(answered[1]), rest[: answered.start()].strip()


def sglang_answers(recordings: Path) -> Iterator[tuple[str, int, str]]:
    text = (recordings / "sglang/api.md").read_text()
    pattern = re.compile(
        r"-X POST http://127\.0\.0\.1:\d+(/(?:un)?load_lora_adapter) .*?\nHTTP (\d+) .*?\n```\n(.*?)\n```", re.S
    )
    for call in text.split("\n### ")[1:]:
        found = pattern.search(call)
        if found:
            yield found[1], int(found[2]), found[3]


def words_of(body: str) -> list[str]:
    """Return every sentence in an answer, whatever its shape."""
    try:
        return [text for text in _strings(json.loads(body)) if " " in text]
    except ValueError:
        return [body]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _strings(item)

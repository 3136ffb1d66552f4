"""Tells from an engine's output how far its start is. Pure.

A phase is information for people and for `on_phase`; nothing waits for one, and an engine whose words are not known has
no phase but `starting`. The words are those of vLLM 0.32.0 and SGLang 0.5.23.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Pattern

_RULES: tuple[tuple[str, Pattern[str]], ...] = (
    ("ready", re.compile(r"Application startup complete|The server is fired up and ready to roll")),
    ("warm-up", re.compile(r"Starting vLLM server on|Uvicorn running on|init engine \(profile")),
    ("graphs", re.compile(r"Capturing CUDA graphs?(?:.*?(\d+)%)?|Capture cuda graph begin|Graph capturing finished")),
    ("kv-cache", re.compile(r"Available KV cache memory|KV cache size|KV Cache is allocated|Memory pool end")),
    ("compile", re.compile(r"Dynamo bytecode transform|torch\.compile takes|Compiling a graph")),
    ("weights", re.compile(r"Loading safetensors checkpoint shards:\s*(\d+)%|Multi-thread loading shards:\s*(\d+)%")),
    ("weights", re.compile(r"Starting to load model|Load weight begin|Loading weights took|Model loading took")),
    (
        "download",
        re.compile(r"(?:Downloading|Fetching \d+ files).*?(\d+)%|Downloading shards|model\.safetensors:\s*(\d+)%"),
    ),
    (
        "config",
        re.compile(r"Initializing a V1 LLM engine|server_args=ServerArgs|non-default args|Resolved architecture"),
    ),
)


@dataclass(frozen=True)
class Progress:
    """A phase of a start, and how much of it is done where the engine says so."""

    phase: str
    percent: int | None = None


def phase_of(line: str) -> Progress | None:
    """Return the phase that a line of output speaks of, or None."""
    for phase, pattern in _RULES:
        match = pattern.search(line)
        if match:
            percent = next((int(group) for group in match.groups() if group), None)
            return Progress(phase, percent)
    return None

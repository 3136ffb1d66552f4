"""Phases of a start, by the words of vLLM 0.32.0 and SGLang 0.5.23."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.phases import Progress, phase_of


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("INFO [core.py:109] Initializing a V1 LLM engine (v0.32.0) with config: model='m'", Progress("config")),
        ("INFO [gpu_model_runner.py:4] Starting to load model m...", Progress("weights")),
        ("Loading safetensors checkpoint shards:  50% Completed | 2/4", Progress("weights", 50)),
        ("INFO [default_loader.py:1] Loading weights took 3.21 seconds", Progress("weights")),
        ("INFO [backends.py:1] Dynamo bytecode transform time: 4.2 s", Progress("compile")),
        ("INFO [gpu_worker.py:1] Available KV cache memory: 2.50 GiB", Progress("kv-cache")),
        ("Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  33%|###", Progress("graphs", 33)),
        ("INFO [core.py:1] init engine (profile, create kv cache, warmup model) took 9 seconds", Progress("warm-up")),
        ("INFO:     Application startup complete.", Progress("ready")),
        ("[2026-11-27] The server is fired up and ready to roll!", Progress("ready")),
        ("[2026-11-27] Load weight begin. avail mem=78 GB", Progress("weights")),
        ("GET /health 200", None),
    ],
)
def test_phase_by_the_words_of_the_engine(line: str, expected: Progress | None) -> None:
    assert phase_of(line) == expected


@given(st.text())
def test_any_line_is_read(line: str) -> None:
    found = phase_of(line)
    assert found is None or found.phase

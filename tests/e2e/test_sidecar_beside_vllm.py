"""The sidecar beside a real vLLM, both as processes of this machine: the deaths of either and of both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2e_engine import model
from e2e_engine.process import LocalVllm, running_vllm
from inference_server.ports import free_port
from patio.metrics.mappings import SOURCES
from patio_protocol.engines import EngineKind
from patio_testing.environment import log_progress
from patio_testing.kube import until

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]

TOKENS = 2000


class SidecarProcess:
    """`python -m patio.app` beside an engine; what it wants is kept over its deaths."""

    def __init__(self, engine: LocalVllm, folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = folder / "sidecar.log"
        self._environment = {
            **os.environ,
            "INFERENCE_ENGINE": "vllm",
            "INFERENCE_ENGINE_ENDPOINT": engine.url,
            "PATIO_STATE_FILE": str(folder / "state.json"),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "patio.app", "--host", "127.0.0.1", "--port", str(self.port)],
                env=self._environment,
                stderr=log,
            )
        until("the sidecar lives", lambda: httpx.get(f"{self.url}/health").is_success, within=30)

    def stop(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    def post(self, path: str, **body: Any) -> None:
        httpx.post(f"{self.url}{path}", json=body, timeout=120).raise_for_status()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model.write(tmp_path_factory.mktemp("e2e") / "made")


@pytest.fixture(scope="module")
def engine(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalVllm]:
    with running_vllm(models, tmp_path_factory.mktemp("scratch"), log_progress, max_model_len=model.CONTEXT) as process:
        yield process


@pytest.fixture
def sidecar(engine: LocalVllm, models: Path, tmp_path: Path) -> Iterator[SidecarProcess]:
    """A sidecar that was told once to load both adapters."""
    process = SidecarProcess(engine, tmp_path)
    process.start()
    for name in model.ADAPTERS:
        process.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(models / "adapters" / name))
    yield process
    process.stop(signal.SIGTERM)


def adapters_of(engine: LocalVllm) -> set[str]:
    """Return what the engine itself lists; empty while it is down."""
    with contextlib.suppress(httpx.HTTPError):
        listed = httpx.get(f"{engine.url}/v1/models", timeout=5).json()["data"]
        return {model["id"] for model in listed} - {model.NAME}
    return set()


def seconds_until_back(engine: LocalVllm) -> float:
    """Return how long after the engine was ready it had all of its adapters again; nobody tells the sidecar to.

    A figure of this machine, which is printed and which no test judges.
    """
    engine.wait_until_ready()
    ready = time.monotonic()
    until("all adapters are back", lambda: adapters_of(engine) == set(model.ADAPTERS), within=30)
    return time.monotonic() - ready


def test_every_metric_of_a_real_vllm_has_its_standard_name(engine: LocalVllm, sidecar: SidecarProcess) -> None:
    for name in (model.NAME, *model.ADAPTERS):
        body = {"model": name, "prompt": model.PROMPT, "max_tokens": 8}
        httpx.post(f"{engine.url}/v1/completions", json=body, timeout=120).raise_for_status()
    until("the sidecar has looked at the engine", lambda: httpx.get(f"{sidecar.url}/ready").is_success, within=30)
    text = httpx.get(f"{sidecar.url}/metrics").text
    samples = {
        (sample.name, frozenset(sample.labels.items())): str(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    table, suffixes = SOURCES[EngineKind.VLLM], ("", "_bucket", "_sum", "_count")
    found = {row for row in table for end in suffixes for name, _ in samples if name == f"patio:{row}{end}"}
    # A gauge of old versions, and one that needs a draft model.
    assert set(table) - found == {"prefix_cache_hit_ratio", "spec_decode_acceptance_ratio"}
    engine_label = ("inference_engine", "vllm")
    for row in found:
        sources = [source for source in table[row] if isinstance(source, str)]
        for (name, labels), value in samples.items():
            end = name.removeprefix(f"patio:{row}")
            if sources and name.startswith(f"patio:{row}") and end in suffixes:
                assert engine_label in labels
                assert value in [samples.get((source + end, labels - {engine_label})) for source in sources]
    (context,) = [value for (name, _), value in samples.items() if name == "patio:model_context_tokens"]
    assert float(context) == model.CONTEXT
    (capacity,) = [value for (name, _), value in samples.items() if name == "patio:kv_cache_capacity_tokens"]
    assert float(capacity) >= model.CONTEXT


def test_adapters_are_back_after_the_death_of_the_engine(engine: LocalVllm, sidecar: SidecarProcess) -> None:
    engine.kill()
    assert adapters_of(engine) == set()
    engine.launch()
    seconds = seconds_until_back(engine)
    log_progress(f"engine killed: adapters back {seconds:.2f} s after it was ready")


def test_sidecar_that_died_knows_them_and_loads_nothing_twice(engine: LocalVllm, sidecar: SidecarProcess) -> None:
    sidecar.stop(signal.SIGKILL)
    assert adapters_of(engine) == set(model.ADAPTERS)
    sidecar.start()
    until("the pod is ready", lambda: httpx.get(f"{sidecar.url}/ready").is_success, within=30)
    reports = httpx.get(f"{sidecar.url}/v1/lora_adapters").json()["adapters"]
    assert {(report["lora_name"], report["state"], report["attempts"]) for report in reports} == {
        (name, "Loaded", 0) for name in model.ADAPTERS
    }


def test_adapters_are_back_after_the_death_of_both(engine: LocalVllm, sidecar: SidecarProcess) -> None:
    engine.kill()
    sidecar.stop(signal.SIGKILL)
    engine.launch()
    sidecar.start()
    seconds = seconds_until_back(engine)
    log_progress(f"engine and sidecar killed: adapters back {seconds:.2f} s after the engine was ready")


def test_stream_of_2000_tokens_finishes_while_its_pod_drains(engine: LocalVllm, sidecar: SidecarProcess) -> None:
    until("the pod is ready", lambda: httpx.get(f"{sidecar.url}/ready").is_success, within=30)
    with ThreadPoolExecutor() as threads:
        body = {"model": model.NAME, "prompt": "a", "max_tokens": TOKENS, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", f"{engine.url}/v1/completions", json=body, timeout=300) as stream:
            lines = (line.removeprefix("data: ") for line in stream.iter_lines() if line.startswith("data: {"))
            choices = [json.loads(next(lines))["choices"][0]]
            began = time.monotonic()
            draining = threads.submit(httpx.post, f"{sidecar.url}/v1/drain", json={"timeout": 280}, timeout=300)
            until("the pod is not ready", lambda: httpx.get(f"{sidecar.url}/ready").status_code == 503, within=10)
            choices += [json.loads(line)["choices"][0] for line in lines]
            streamed = time.monotonic() - began
        answer = draining.result().json()
    drained = time.monotonic() - began
    log_progress(f"{TOKENS} tokens took {streamed:.1f} s after the drain was called, the drain {drained:.1f} s")
    # What the kubelet does next: vLLM ends every running request on this.
    engine.stop()
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    assert (answer["drained"], answer["running"], answer["waiting"]) == (True, 0, 0)
    assert drained > streamed

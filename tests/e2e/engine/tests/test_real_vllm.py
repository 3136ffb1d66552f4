"""The real vLLM on this machine: the recordings still hold, and each adapter answers in its own words."""

from __future__ import annotations

import ctypes.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from e2e_engine import environment, launch, model
from engine_double.recorded import more_vllm_exchanges

from kube import until

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(900),
    pytest.mark.skipif(ctypes.util.find_library("numa") is None, reason="vLLM needs libnuma1 on this machine"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # vLLM masks paths under /tmp in its errors, and the recordings were made with such paths.
    return model.write(tmp_path_factory.mktemp("e2e") / "made")


@pytest.fixture(scope="module")
def engine(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    installed = environment.install(lambda line: print(line, flush=True))
    scratch = tmp_path_factory.mktemp("scratch")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *launch.arguments(models / "model", host="127.0.0.1", port=port)]
    variables = {"PATH": os.defpath, **launch.variables(installed, scratch)}
    log = scratch / "vllm.log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, env=variables, stdout=output, stderr=output, start_new_session=True) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            _wait_for(client, process, log)
            yield client
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait_for(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> None:
    def look() -> bool:
        assert process.poll() is None, f"vLLM ended; its last words:\n{log.read_text()[-3000:]}"
        return client.get("/health", timeout=5).status_code == 200

    until("vLLM answers", look, within=launch.STARTUP_SECONDS)


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

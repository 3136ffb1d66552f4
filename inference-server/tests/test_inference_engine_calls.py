"""Adapters and metrics of a running engine, which is the double of vLLM or SGLang, without another package's hooks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_double.samples import write_adapter
from inference_server import CustomServer, EngineError, SGLangServer, hooks
from inference_server.engine_calls import Engine, request_model, words_of
from inference_server.http_check import post
from inference_server.ports import free_port

Make = Callable[..., CustomServer]
RUNTIME = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}


@pytest.fixture(autouse=True)
def no_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is alone: the workspace has the sidecar's hooks."""
    monkeypatch.setitem(hooks._loaded, hooks.HOOKS, {})


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[CustomServer] = []

    def make(engine: str, *flags: str, **arguments: Any) -> CustomServer:
        port = free_port()
        module = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}[engine]
        command = [sys.executable, "-m", "engine_double", "-m", module, "--model-path", "tiny", "--host", "127.0.0.1"]
        server = CustomServer(
            "tiny",
            [*command, "--port", str(port), "--health-seconds", "0", *flags],
            backend=engine,
            output_dir=tmp_path / "logs",
            port=port,
            **arguments,
        )
        made.append(server)
        server.start()
        return server

    yield make
    for server in made:
        server.kill()


def completion(server: CustomServer, model: str) -> tuple[int, str]:
    answer = post(server.server_url + "/v1/completions", {"model": model, "prompt": "a", "max_tokens": 4}, 60)
    assert answer is not None
    return answer.status, answer.json()["choices"][0]["text"] if answer.status == 200 else answer.text


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_adapter_is_loaded_answers_and_is_unloaded(make: Make, tmp_path: Path, engine: str) -> None:
    server = make(engine, "--enable-lora", env_vars=RUNTIME)
    model = server.load_adapter("mine", write_adapter(tmp_path / "mine"))
    assert model == {"vllm": "mine", "sglang": "tiny:mine"}[engine]
    base, adapted = completion(server, "tiny"), completion(server, model)
    assert (base[0], adapted[0]) == (200, 200)
    assert base[1] != adapted[1]
    server.unload_adapter("mine")
    with pytest.raises(EngineError):
        server.unload_adapter("mine")


@pytest.mark.parametrize(
    ("engine", "flags", "variables", "expected"),
    [
        ("vllm", (), {}, "start vLLM with --enable-lora and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in env_vars"),
        ("vllm", ("--enable-lora",), RUNTIME, "/v1/load_lora_adapter answered 500: .*rank"),
        ("sglang", (), {}, "LoRA is not enabled"),
        ("sglang", ("--enable-lora",), {}, "/load_lora_adapter answered 400: .*rank"),
    ],
)
def test_rejected_adapter_is_an_error_with_the_reason(
    make: Make, tmp_path: Path, engine: str, flags: tuple[str, ...], variables: dict[str, str], expected: str
) -> None:
    server = make(engine, *flags, env_vars=variables)
    with pytest.raises(EngineError, match=expected):
        server.load_adapter("mine", write_adapter(tmp_path / "mine", rank=512))


def test_metrics_are_the_text_of_the_engine(make: Make) -> None:
    text = make("vllm").metrics()
    assert "vllm:num_requests_running" in text
    assert "patio:" not in text


def test_engine_without_metrics_is_told(make: Make) -> None:
    with pytest.raises(EngineError, match="start SGLang with --enable-metrics") as raised:
        make("sglang").metrics()
    assert raised.value.status == 404


def test_engine_that_does_not_run_is_told(tmp_path: Path) -> None:
    server = CustomServer("tiny", ["true"], backend="vllm", output_dir=tmp_path, port=free_port())
    with pytest.raises(EngineError, match="does not answer"):
        server.metrics()
    with pytest.raises(EngineError, match="/v1/load_lora_adapter: no answer"):
        server.load_adapter("mine", "/nonexistent")


def test_engine_without_known_routes_is_told(tmp_path: Path) -> None:
    server = CustomServer("tiny", ["true"], output_dir=tmp_path)
    with pytest.raises(EngineError, match="adapters of the backend custom cannot be changed"):
        server.load_adapter("mine", "/nonexistent")


def test_changes_take_the_admin_key(tmp_path: Path) -> None:
    words = ["--api-key", "k", "--admin-api-key", "a", "--served-model-name", "base"]
    server = SGLangServer("m", output_dir=tmp_path, config={"server_args": words})
    assert server.get_admin_headers() == {"Authorization": "Bearer a"}
    assert server.get_request_headers() == {"Authorization": "Bearer k"}
    server = SGLangServer("m", output_dir=tmp_path, config={"server_args": words[:2]})
    assert server.get_admin_headers() == {"Authorization": "Bearer k"}


def test_hooks_are_given_what_they_need_to_ask() -> None:
    headers, admin = {"Authorization": "Bearer k"}, {"Authorization": "Bearer a"}
    engine = Engine("sglang", "http://localhost:1", "base", headers, admin)
    assert engine.for_hooks() == {
        "engine": "sglang",
        "url": "http://localhost:1",
        "model": "base",
        "api_key": "k",
        "admin_key": "a",
    }
    assert request_model(engine, "mine") == "base:mine"
    assert Engine("vllm", "", "base", {}, {}).for_hooks()["api_key"] is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"error": {"message": "m", "code": 400}}', "m"),
        ('{"success": false, "error_message": "m"}', "m"),
        ('{"object": "error", "message": "m"}', "m"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"detail": [1]}', '{"detail": [1]}'),
        ("[1]", "[1]"),
        (" plain\n", "plain"),
        ("x" * 3000, "x" * 2000),
    ],
)
def test_words_of_an_answer(text: str, expected: str) -> None:
    assert words_of(text) == expected

"""What `inference_server` does where the sidecar's package is installed, beside a double of each engine."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from engine_double.samples import write_adapter
from inference_server import CustomServer, EngineError, hooks
from inference_server.ports import free_port
from patio import inference_server_hooks

MODULES = {"vllm": "vllm.entrypoints.openai.api_server", "sglang": "sglang.launch_server"}


@pytest.fixture(params=MODULES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CustomServer]:
    port = free_port()
    command = [sys.executable, "-m", "engine_double", "-m", MODULES[request.param], "--model-path", "tiny"]
    server = CustomServer(
        "tiny",
        [*command, "--host", "127.0.0.1", "--port", str(port), "--enable-lora", "--enable-metrics"],
        backend=request.param,
        output_dir=tmp_path / "logs",
        port=port,
        env_vars={"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
    )
    with server:
        yield server


def requests(server: CustomServer, word: str) -> int:
    made = httpx.get(f"{server.server_url}/_double/requests").json()
    return sum(word in request["path"] for request in made)


def adapters(server: CustomServer) -> dict[str, str]:
    listed = httpx.get(f"{server.server_url}/v1/models").json()["data"]
    return {entry["id"]: entry["root"] for entry in listed if entry.get("parent")}


def test_entry_point_names_this_module() -> None:
    assert hooks.installed(hooks.HOOKS)["patio"] is inference_server_hooks


def test_metrics_have_standard_names_behind_those_of_the_engine(server: CustomServer) -> None:
    text = server.metrics()
    own, standard = text.split("# HELP patio:", 1)
    name = {"vllm": "vllm:num_requests_running{", "sglang": "sglang:num_running_reqs{"}[server.get_backend_name()]
    assert name in own
    assert f'patio:num_requests_running{{inference_engine="{server.get_backend_name()}"' in standard


async def test_adapter_is_replaced_and_not_rejected(server: CustomServer, tmp_path: Path) -> None:
    """Within a running event loop, as in a notebook. The plain route rejects a name that is loaded."""
    first, second = (write_adapter(tmp_path / name) for name in ("first", "second"))
    model = server.load_adapter("mine", first)
    assert server.load_adapter("mine", second) == model
    assert adapters(server) == {"mine": str(second)}
    server.unload_adapter("mine")
    server.unload_adapter("mine")
    assert requests(server, "unload_lora_adapter") >= 2


def test_reason_of_a_rejection_is_in_the_words_of_the_sidecar(server: CustomServer, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="rank") as raised:
        server.load_adapter("mine", write_adapter(tmp_path / "bad", rank=512))
    assert isinstance(raised.value.__cause__, ValueError)


def test_engine_that_is_down_may_work_later(tmp_path: Path) -> None:
    server = CustomServer("tiny", ["true"], backend="vllm", output_dir=tmp_path, port=free_port())
    with pytest.raises(EngineError) as raised:
        server.load_adapter("mine", tmp_path)
    assert isinstance(raised.value.__cause__, OSError)


def test_engine_that_is_not_known_is_left_to_the_library() -> None:
    known: dict[str, str | None] = {"engine": "mine", "url": "http://127.0.0.1:9", "api_key": None, "admin_key": None}
    assert inference_server_hooks.metrics(known, "a 1\n") is NotImplemented
    assert inference_server_hooks.load_adapter(known, "a", "/a") is NotImplemented
    assert inference_server_hooks.unload_adapter(known, "a") is NotImplemented

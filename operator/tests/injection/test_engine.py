"""The engine is known by its command line, in the forms that manifests really have."""

from __future__ import annotations

from typing import Any

import pytest

from patio_operator.injection.engine import Engine, find_engine

POD_IP = {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
SECRET = {"valueFrom": {"secretKeyRef": {"name": "keys", "key": "engine"}}}


def engine(command: list[str], args: list[str] | None = None, **fields: Any) -> Engine:
    return find_engine([{"name": "c", "image": "some/image:1", "command": command, "args": args or [], **fields}])


def shell(script: str, **fields: Any) -> Engine:
    return engine(["sh", "-c", script], **fields)


SGLANG_SCRIPT = """python3 -m sglang.launch_server --model-path /models/Qwen3-32B/ \\
  --port 8000 \\
  --tp-size 2
"""
LONG_SCRIPT = """set -e
# vllm serve other --port 1
sleep 1; cd /x && VLLM_LOGGING_LEVEL=DEBUG vllm serve 'my model' --port 8001
"""
OPENAI_SERVER = "vllm.entrypoints.openai.api_server"
SGLANG_SERVER = ["python3", "-m", "sglang.launch_server"]


@pytest.mark.parametrize(
    ("found", "kind", "port", "model"),
    [
        (engine(["vllm", "serve", "Qwen/Qwen3-0.6B"]), "vllm", 8000, "Qwen/Qwen3-0.6B"),
        (engine(["vllm", "serve", "m", "--port", "8001"]), "vllm", 8001, "m"),
        (engine(["vllm"], ["serve", "m", "--port=8001"]), "vllm", 8001, "m"),
        (engine(["/opt/bin/vllm", "serve", "m", "--served-model-name", "short", "long"]), "vllm", 8000, "short"),
        (engine(["vllm", "serve", "m", "--served_model_name=short"]), "vllm", 8000, "short"),
        (engine(["vllm", "serve", "--model", "m", "--enable-lora"]), "vllm", 8000, "m"),
        (engine(["python3", "-m", OPENAI_SERVER, "--model", "m"]), "vllm", 8000, "m"),
        (engine(["python3", "-m", "vllm.entrypoints.cli.main", "serve", "m"]), "vllm", 8000, "m"),
        (engine([*SGLANG_SERVER, "--model-path", "m"]), "sglang", 30000, "m"),
        (engine([*SGLANG_SERVER, "--port", "8000", "--served-model-name", "s"]), "sglang", 8000, "s"),
        (engine(["sglang", "serve", "--model-path", "m"]), "sglang", 30000, "m"),
        (shell("vllm serve m --port 8001"), "vllm", 8001, "m"),
        (shell("exec vllm serve m --port 8001 2>&1 | tee /log"), "vllm", 8001, "m"),
        (shell(SGLANG_SCRIPT), "sglang", 8000, "/models/Qwen3-32B/"),
        (shell(LONG_SCRIPT), "vllm", 8001, "my model"),
        (engine(["/bin/bash", "-lc"], ["vllm serve m"]), "vllm", 8000, "m"),
        (shell('vllm serve "$M" --port ${PORT:-8005}', env=[{"name": "M", "value": "m"}]), "vllm", 8005, "m"),
        (engine(["vllm", "serve", "$(M)", "--port", "$(P)"], env=[{"name": "P", "value": "8006"}]), "vllm", 8006, None),
        (shell("vllm serve m --port $(cat /port)"), "vllm", None, "m"),
        (shell("vllm serve 'an open quote"), "vllm", 8000, None),
        (engine([], ["--model", "m"], image="vllm/vllm-openai:v0.32.0"), "vllm", 8000, "m"),
        (engine([], image="registry:5000/vllm-cpu@sha256:abc", ports=[{"containerPort": 9000}]), "vllm", 9000, None),
        (engine([], ["serve", "m"], image="vllm/vllm-openai:v0.32.0"), "vllm", 8000, "m"),
        (engine([], image="lmsysorg/sglang:latest", ports=[{"containerPort": 8000}]), "sglang", 8000, None),
        (engine(["nginx"], image="vllm/vllm-openai:v1"), None, None, None),
        (engine([], image="lmsysorg/sglang-router:v0.2.2"), None, None, None),
        (engine(["python3", "-m", "sglang_router.launch_router", "--port", "8000"]), None, None, None),
        (engine(["python3", "-m", "dynamo.vllm", "--model", "m"]), None, None, None),
        (engine(["sh", "-c"]), None, None, None),
        (engine(["sh", "/start.sh"]), None, None, None),
        (engine(["vllm"]), None, None, None),
    ],
)
def test_engine_is_recognised_by_its_command(
    found: Engine, kind: str | None, port: int | None, model: str | None
) -> None:
    assert (found.kind, found.port, found.model) == (kind, port, model)


def test_engine_is_the_first_container_that_is_recognised() -> None:
    router = {"name": "router", "command": ["nginx"]}
    assert find_engine([router, {"name": "llm", "command": ["vllm", "serve", "m"]}]).container == "llm"


def test_engine_is_the_first_container_if_none_is_recognised() -> None:
    assert find_engine([{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]) == Engine(container="a")


@pytest.mark.parametrize(
    ("host", "reached_at"),
    [
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("127.0.0.1", "localhost"),
        ("$(POD_IP)", "$(POD_IP)"),
        ("${POD_IP}", "$(POD_IP)"),
        ("$OTHER", "localhost"),
        ("::1", "[::1]"),
        ("[fd00::7]", "[fd00::7]"),
        ("10.1.2.3", "10.1.2.3"),
        ("a b", "localhost"),
    ],
)
def test_engine_that_listens_on_the_pod_address_is_reached_there(host: str, reached_at: str) -> None:
    assert engine(["vllm", "serve", "m", "--host", host], env=[POD_IP]).host == reached_at


def test_key_is_known_by_its_reference_only() -> None:
    by_variable = engine(["vllm", "serve", "m"], env=[{"name": "VLLM_API_KEY", **SECRET}])
    by_flag = engine(["vllm", "serve", "m", "--api-key", "$(KEY)"], env=[{"name": "KEY", **SECRET}])
    in_clear = engine(["vllm", "serve", "m", "--api-key", "hunter2"])
    assert by_variable.keys == by_flag.keys == {"--api-key": SECRET}
    assert (in_clear.keys, in_clear.unknown_keys) == ({}, ("--api-key",))
    assert "hunter2" not in repr(in_clear)


def test_sglangs_admin_key_is_a_key_of_its_own() -> None:
    found = engine(
        ["python3", "-m", "sglang.launch_server", "--admin-api-key", "${ADMIN}"], env=[{"name": "ADMIN", **SECRET}]
    )
    assert found.keys == {"--admin-api-key": SECRET}


@pytest.mark.parametrize(
    ("flags", "served"),
    [
        (["--served-model-name", "short", "long", "--port", "1"], ("short", "long")),
        (["--served_model_name=short"], ("short",)),
        ([], ("m",)),
        (["--served-model-name", "short", "$(cat /name)"], ()),
    ],
)
def test_every_name_of_the_base_model_is_known(flags: list[str], served: tuple[str, ...]) -> None:
    assert engine(["vllm", "serve", "m", *flags]).served == served


@pytest.mark.parametrize(
    ("flags", "room"),
    [
        ([], None),
        (["--max-loaded-loras", "4"], 4),
        (["--max-loaded-loras=4", "--lora-paths", "a=/a", "b=/b"], 2),
        (["--max-loaded-loras", "1", "--lora-paths", "a=/a", "b=/b"], 0),
        (["--max-loaded-loras", "$(cat /many)"], None),
    ],
)
def test_capacity_for_adapters_is_what_the_command_says(flags: list[str], room: int | None) -> None:
    assert engine([*SGLANG_SERVER, *flags]).free_slots == room

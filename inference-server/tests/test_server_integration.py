"""A whole life of a server: with TEST_MODEL the real engines that `python` has, without it a small one of the tests."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from pathlib import Path

import fake_programs
import pytest

from inference_server import create_server
from inference_server.engine_probe import probe
from inference_server.ports import is_free

MODEL = os.environ.get("TEST_MODEL")

pytestmark = pytest.mark.skipif(os.environ.get("SKIP_INTEGRATION_TESTS") == "1", reason="SKIP_INTEGRATION_TESTS is set")


@pytest.mark.parametrize("backend", ["vllm", "sglang"])
def test_server_starts_answers_and_stops(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if MODEL is None:
        monkeypatch.setenv("PATH", fake_programs.path_with(fake_programs.install(tmp_path / "bin")))
    elif not probe(shutil.which("python") or "python", backend, os.environ).found:
        pytest.skip(f"python has no {backend}")
    server = create_server(backend, MODEL or "tiny", port=0, output_dir=tmp_path / "logs", debug_mode=True)
    with server:
        request = urllib.request.Request(
            server.list_endpoints()["completions"],
            json.dumps({"model": server.model, "prompt": "Hello", "max_tokens": 4}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=server.startup_timeout) as answer:
            assert json.load(answer)["choices"]
    assert server.cleanup_report is not None
    assert server.cleanup_report.passed
    assert is_free(server.port)

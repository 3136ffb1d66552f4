"""The program that has the sidecar fetch a model before the engine starts, run as it runs beside an engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from patio_operator.modelendpoints.model_fetch import PREFIX, PROGRAM, SIDECAR
from patio_protocol.downloads import DownloadRequest
from patio_testing.deadline import DEADLINE

ENGINE = "import os; print('started', sorted(n for n in os.environ if n.startswith('PATIO_SOURCE')))"


class Sidecar:
    """Gives its answers in turn, and keeps the requests."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, dict[str, Any]]] = []
        self.requests: list[tuple[str, Any]] = []
        sidecar = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(None)

            def do_POST(self) -> None:
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def answer(self, body: Any) -> None:
                sidecar.requests.append((self.path, body))
                status, answered = sidecar.answers.pop(0)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(answered).encode())

            def log_message(self, format: str, *args: Any) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def sidecar() -> Iterator[Sidecar]:
    made = Sidecar()
    thread = threading.Thread(target=made.server.serve_forever, daemon=True)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()


def run(sidecar: Sidecar) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-c", PROGRAM, "s3://bucket/qwen", "/models/qwen", sys.executable, "-c", ENGINE]
    variables = {SIDECAR: sidecar.url, f"{PREFIX}ACCESS_KEY": "a", f"{PREFIX}SECRET_KEY": "b", f"{PREFIX}REGION": ""}
    return subprocess.run(
        words, env=os.environ | variables, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_engine_starts_after_the_download_without_credentials(sidecar: Sidecar) -> None:
    running = {"id": "1", "state": "Running"}
    sidecar.answers = [(202, running), (200, running), (200, {"id": "1", "state": "Succeeded"})]
    done = run(sidecar)
    assert (done.returncode, done.stdout) == (0, "started []\n")
    path, order = sidecar.requests[0]
    request = DownloadRequest.model_validate(order)
    assert (path, request.source, request.output_dir) == ("/v1/download_model", "s3://bucket/qwen", "/models/qwen")
    assert dict(request.config or {}) == {"access_key": "a", "secret_key": "b"}
    assert [path for path, _ in sidecar.requests[1:]] == ["/v1/downloads/1", "/v1/downloads/1"]


def test_download_that_cannot_succeed_ends_with_its_words(sidecar: Sidecar) -> None:
    sidecar.answers = [(404, {"error": {"code": "SourceNotFound", "message": "no such bucket", "retryable": False}})]
    done = run(sidecar)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "model s3://bucket/qwen: no such bucket\n"


def test_download_that_failed_for_the_moment_is_repeated(sidecar: Sidecar) -> None:
    failed = {"id": "1", "state": "Failed", "error": {"code": "SourceSlow", "message": "slow", "retryable": True}}
    sidecar.answers = [(202, failed), (202, {"id": "2", "state": "Succeeded"})]
    assert run(sidecar).returncode == 0


def test_program_has_nothing_that_kubernetes_replaces() -> None:
    assert "$" not in PROGRAM

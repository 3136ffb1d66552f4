"""`make fuzz`, the other half: the sidecar's API under requests that its OpenAPI document allows and forbids.

A sidecar and an engine double run as processes on loopback; schemathesis makes the requests. Laws: no 500 ever, another
5xx only as the word of the engine or of a source (and in the error shape), every answer as the document says, and the
sidecar lives on as the same process. Sources lead nowhere: both endpoints are a closed port.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import CheckFunction
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from inference_server.ports import free_port
from patio_protocol.adapters import ErrorBody
from patio_testing.local_servers import engine_double, local_server

CONFORMANCE: list[CheckFunction] = [
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
OTHERS_WORDS = (502, 503, 507)
"""Statuses of faults that are not the sidecar's: of the engine, of a source, of the disk."""
START_SECONDS = 30.0
SHORT = 0.01
"""What every wait that a request asks for is cut to, in seconds."""


@contextlib.contextmanager
def running_sidecar(engine: str, host: str = "127.0.0.1", **variables: str) -> Iterator[str]:
    """A sidecar that serves its document, beside an engine double; yield its URL on loopback."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine_port, port = free_port(), free_port()
        nowhere = "http://127.0.0.1:9"
        environment = {
            "INFERENCE_ENGINE_ENDPOINT": f"http://127.0.0.1:{engine_port}",
            "PATIO_STATE_FILE": str(folder / "state.json"),
            "PATIO_DOWNLOAD_ROOT": str(folder / "adapters"),
            "HF_ENDPOINT": nowhere,
            "ENDPOINT": nowhere,
            "ACCESS_KEY": "nobody",
            "SECRET_KEY": "nothing",
            **variables,
        }
        command = ["-m", "patio.app", "--port", str(port), "--enable-fastapi-docs", "-E", engine, "--host", host]
        double = engine_double("engine", folder / "logs", engine_port, "--engine", engine, "--enable-lora")
        sidecar = local_server("sidecar", folder / "logs", port, command, environment)
        for server in (double, sidecar):
            stack.callback(server.kill)
            server.launch()
        running = sidecar.process
        assert running is not None
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + START_SECONDS
        while not _lives(url):
            if time.monotonic() > until:
                raise RuntimeError("the sidecar does not start")
            time.sleep(0.05)
        yield url
        if running.poll() is not None:
            raise AssertionError(f"the sidecar ended with {running.returncode}")


def fuzz(url: str, cases: int, chosen: int) -> int:
    """Send at least so many requests; return how many. Raise what a broken law raises, with the request in it."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    # Many operations have only one request to send; the others make up for them, with another seed each time.
    varied = [(operation, mode) for operation in operations for mode in GenerationMode]
    sent = 0
    while sent < cases:
        each = -(-(cases - sent) // len(varied))
        counts = {variant: _fuzz_operation(*variant, max(each, 2), chosen) for variant in varied}
        sent += sum(counts.values())
        chosen += 1
        varied = [variant for variant in varied if counts[variant] > 1]
    return sent


def _fuzz_operation(operation: Any, mode: GenerationMode, cases: int, chosen: int) -> int:
    sent = 0

    @seed(chosen)
    @settings(max_examples=cases, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def hold(case: schemathesis.Case[Any]) -> None:
        nonlocal sent
        sent += 1
        _shorten(case)
        # Over loopback what changes something comes as JSON, also where it has no body.
        response = case.call(headers={"content-type": "application/json"} if case.method == "DELETE" else None)
        status = response.status_code
        exchange = f"{case.method} {case.formatted_path} answered {status}: {response.text[:500]}"
        assert status < 500 or status in OTHERS_WORDS, exchange
        if status >= 400 and case.formatted_path != "/ready":
            ErrorBody.model_validate_json(response.content)
        if status not in (404, 405):  # what the client made of a hostile path may be another route, or none
            case.validate_response(response, checks=CONFORMANCE)

    with contextlib.suppress(Unsatisfiable):  # nothing can be wrong with a request that has no parts
        hold()
    return sent


def _shorten(case: schemathesis.Case[Any]) -> None:
    """Let no request wait: the laws are about answers, and there are many."""
    body: Any = case.body
    for part in (body, case.query):
        if isinstance(part, dict):
            for name in ("wait", "timeout"):
                value: Any = part.get(name)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    part[name] = min(value, SHORT)
    if isinstance(body, dict) and "source" in body:
        body["async_download"] = True


def _lives(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ready", timeout=1).is_success
    except httpx.HTTPError:
        return False


def main(argv: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_api", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="requests for each engine, at least (%(default)s)")
    parser.add_argument("--seed", type=int, default=4, help="of the requests (%(default)s)")
    options = parser.parse_args(argv)
    for engine in ("vllm", "sglang"):
        began = time.monotonic()
        with running_sidecar(engine) as url:
            sent = fuzz(url, options.cases, options.seed)
        print(f"{engine}: {sent} requests, no law broken, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

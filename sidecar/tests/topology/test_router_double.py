"""The double of the routers against what the real ones were recorded to answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from patio.topology.routers import _Accepted, _Worker, _Workers
from patio_testing.sidecar.router_double import RouterDouble

RECORDINGS = {"sglang-router": "api-0.3.2.txt", "smg": "api-smg-1.13.0.txt"}
SERVED = re.compile(r"^/(workers(/.*)?|readiness)$")
ALIVE = "http://127.0.0.1:8000"


class Exchange(NamedTuple):
    method: str
    path: str
    body: Any
    status: int
    answer: str


def recorded(kind: str) -> list[Exchange]:
    text = (Path(__file__).parents[1] / "router_recordings" / RECORDINGS[kind]).read_text()
    exchanges = []
    for block in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n")
        method = re.match(r"-X(\w+) ", head)
        path = re.search(r"localhost:\d+(\S+)", head)
        body = re.search(r" -d (.*)$", head)
        status = re.match(r"HTTP/1.1 (\d+)", rest)
        if path and status:
            _, _, answer = rest.partition("\n\n")
            request_body = json.loads(body.group(1)) if body else None
            verb = method.group(1) if method else "GET"
            exchanges.append(
                Exchange(verb, path.group(1), request_body, int(status.group(1)), answer.strip().split("\n\n")[0])
            )
    return [exchange for exchange in exchanges if SERVED.match(exchange.path) and exchange.method != "PUT"]


@pytest.mark.parametrize("kind", list(RECORDINGS))
async def test_double_answers_as_the_real_router_was_recorded(kind: str) -> None:
    double = RouterDouble(kind, alive={ALIVE})
    ids: dict[str, str] = {}
    compared = 0
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=double.app), base_url="http://router") as http:
        for exchange in recorded(kind):
            path = exchange.path
            for recorded_id, double_id in ids.items():
                path = path.replace(recorded_id, double_id)
            answer = await http.request(exchange.method, path, json=exchange.body)
            assert answer.status_code == exchange.status, exchange
            if exchange.method == "POST" and exchange.status == 202:
                ids[json.loads(exchange.answer)["worker_id"]] = answer.json()["worker_id"]
            if exchange.answer.startswith("{"):
                check_equal(json.loads(exchange.answer), answer.json(), ids)
            compared += 1
    assert compared >= 12


def check_equal(expected: Any, actual: Any, ids: dict[str, str]) -> None:
    """Compare what the sidecar reads of an answer."""
    if "workers" in expected:
        for real, double in zip(expected["workers"], actual["workers"], strict=True):
            check_equal(real, double, ids)
    elif "job_status" in expected or "is_healthy" in expected:
        real, double = _Worker.model_validate(expected), _Worker.model_validate(actual)
        message = real.job_status and real.job_status.message
        assert bool(message) == bool(double.job_status and double.job_status.message)
        keep = {"id", "job_status"}
        assert real.model_dump(exclude=keep) == double.model_dump(exclude=keep)
        assert real.job_status is None or double.job_status is not None
        if real.job_status is not None and double.job_status is not None:
            assert real.job_status.status == double.job_status.status
    elif "worker_id" in expected:
        assert expected["status"] == actual["status"]
        assert ids[expected["worker_id"]] == actual["worker_id"]
    else:
        assert expected.get("code") == actual.get("code")


@pytest.mark.parametrize("kind", list(RECORDINGS))
def test_everything_recorded_is_understood(kind: str) -> None:
    for exchange in recorded(kind):
        if exchange.status == 200 and exchange.path == "/workers":
            assert _Workers.model_validate_json(exchange.answer).workers is not None
        elif exchange.status == 200 and exchange.path.startswith("/workers/"):
            assert _Worker.model_validate_json(exchange.answer).id in exchange.path
        elif exchange.status == 202 and exchange.method == "POST":
            assert _Accepted.model_validate_json(exchange.answer).worker_id

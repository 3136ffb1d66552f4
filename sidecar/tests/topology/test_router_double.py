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
    found = []
    for block in re.split(r"^--- ", text, flags=re.MULTILINE)[1:]:
        head, _, rest = block.partition("\n")
        method = re.match(r"-X(\w+) ", head)
        path = re.search(r"localhost:\d+(\S+)", head)
        body = re.search(r" -d (.*)$", head)
        status = re.match(r"HTTP/1.1 (\d+)", rest)
        if path and status:
            _, _, answer = rest.partition("\n\n")
            given = json.loads(body.group(1)) if body else None
            verb = method.group(1) if method else "GET"
            found.append(Exchange(verb, path.group(1), given, int(status.group(1)), answer.strip().split("\n\n")[0]))
    return [one for one in found if SERVED.match(one.path) and one.method != "PUT"]


@pytest.mark.parametrize("kind", list(RECORDINGS))
async def test_double_answers_as_the_real_router_was_recorded(kind: str) -> None:
    double = RouterDouble(kind, alive={ALIVE})
    ids: dict[str, str] = {}
    seen = 0
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=double.app), base_url="http://router") as http:
        for one in recorded(kind):
            path = one.path
            for theirs, ours in ids.items():
                path = path.replace(theirs, ours)
            answer = await http.request(one.method, path, json=one.body)
            assert answer.status_code == one.status, one
            if one.method == "POST" and one.status == 202:
                ids[json.loads(one.answer)["worker_id"]] = answer.json()["worker_id"]
            if one.answer.startswith("{"):
                check_same(json.loads(one.answer), answer.json(), ids)
            seen += 1
    assert seen >= 12


def check_same(theirs: Any, ours: Any, ids: dict[str, str]) -> None:
    """Compare what the sidecar reads of an answer."""
    if "workers" in theirs:
        for real, double in zip(theirs["workers"], ours["workers"], strict=True):
            check_same(real, double, ids)
    elif "job_status" in theirs or "is_healthy" in theirs:
        real, double = _Worker.model_validate(theirs), _Worker.model_validate(ours)
        message = real.job_status and real.job_status.message
        assert bool(message) == bool(double.job_status and double.job_status.message)
        keep = {"id", "job_status"}
        assert real.model_dump(exclude=keep) == double.model_dump(exclude=keep)
        assert real.job_status is None or double.job_status is not None
        if real.job_status is not None and double.job_status is not None:
            assert real.job_status.status == double.job_status.status
    elif "worker_id" in theirs:
        assert theirs["status"] == ours["status"]
        assert ids[theirs["worker_id"]] == ours["worker_id"]
    else:
        assert theirs.get("code") == ours.get("code")


@pytest.mark.parametrize("kind", list(RECORDINGS))
def test_everything_recorded_is_understood(kind: str) -> None:
    for one in recorded(kind):
        if one.status == 200 and one.path == "/workers":
            assert _Workers.model_validate_json(one.answer).workers is not None
        elif one.status == 200 and one.path.startswith("/workers/"):
            assert _Worker.model_validate_json(one.answer).id in one.path
        elif one.status == 202 and one.method == "POST":
            assert _Accepted.model_validate_json(one.answer).worker_id

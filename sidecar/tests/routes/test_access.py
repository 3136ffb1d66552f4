"""Calls from outside the pod, through the whole application: what gets 401 changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from prometheus_client import CollectorRegistry

import patio.access.metrics
from engine_double import Double, running_double
from patio.access.authorizer import Authorizer
from patio.access.metrics import CODES, AccessMetrics, Contact
from patio.access.settings import AccessSettings
from patio.adapters.store import Store
from patio.app import Sidecar, assemble
from patio.routes.access import add_access
from patio.settings import Settings
from patio_protocol.authentication import MAX_BODY, PROOF_MISSING, UNKNOWN_KEY, body_digest
from patio_protocol.client import SidecarClient
from patio_protocol.engines import EngineKind
from patio_protocol.errors import RejectedError
from patio_testing.sidecar.builders import adapter_files, eventually, load_request
from patio_testing.sidecar.proof_builders import POD, Signer

ROOT = Signer(1)
ENFORCED = AccessSettings(keys=(ROOT.public,), pod_uid=POD)
CHANGING = [
    ("POST", "/v1/load_lora_adapter"),
    ("POST", "/load_lora_adapter"),
    ("POST", "/v1/unload_lora_adapter"),
    ("POST", "/unload_lora_adapter"),
    ("POST", "/v1/download_model"),
    ("POST", "/v1/drain"),
    ("GET", "/v1/drain"),
    ("GET", "/v1/drain?timeout=1"),
    ("DELETE", "/v1/downloads/1"),
    ("PUT", "/whatever"),
]


class Pod:
    """A sidecar beside a double, called from two places."""

    def __init__(self, parts: Sidecar, inside: httpx.AsyncClient, outside: httpx.AsyncClient) -> None:
        self.parts = parts
        self.inside = inside
        self.outside = outside

    async def call_signed(self, method: str, target: str, body: bytes = b"", **claims: Any) -> httpx.Response:
        """Call from outside with a proof that is right unless changed."""
        by: Signer = claims.pop("by", ROOT)
        sent_body = claims.pop("sent", body)
        headers = claims.pop("headers", {})
        proof = by.proof(method, target, body, **{"iat": time.time(), **claims})
        headers = {"authorization": f"Patio-Proof {proof}", "content-type": "application/json", **headers}
        return await self.outside.request(method, target, content=sent_body, headers=headers)


StartPod = Callable[..., AbstractAsyncContextManager[Pod]]


@pytest.fixture
def start_pod(tmp_path: Path) -> StartPod:
    """Start a sidecar beside a double: `async with pod(double) as pod`."""

    @contextlib.asynccontextmanager
    async def start(double: Double, access: AccessSettings = ENFORCED) -> AsyncIterator[Pod]:
        settings = Settings(engine=EngineKind.VLLM, engine_endpoint=str(double), access=access)
        async with contextlib.AsyncExitStack() as stack:
            http = await stack.enter_async_context(httpx.AsyncClient())
            parts = assemble(settings, Store(tmp_path / "state.json"), http, asyncio.Event())
            running = asyncio.create_task(parts.reconciler.run())
            places = [
                await stack.enter_async_context(
                    httpx.AsyncClient(
                        transport=httpx.ASGITransport(app=parts.app, client=(peer, 5)), base_url="http://sidecar"
                    )
                )
                for peer in ("127.0.0.1", "10.1.2.3")
            ]
            try:
                await eventually(lambda: ready(places[0]), "the sidecar is ready")
                yield Pod(parts, *places)
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                await parts.scraper.close()

    return start


async def ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/ready")).status_code == 200


def code(response: httpx.Response) -> str:
    """The code of a denial, which is the same in the body and in the challenge."""
    error_code: str = response.json()["error"]["code"]
    if response.status_code == 401:
        assert response.headers["www-authenticate"] == f'Patio-Proof error="{error_code}"'
    return error_code


async def test_unsigned_outside_changes_get_401_and_change_nothing(start_pod: StartPod, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        inside = SidecarClient("http://sidecar", pod.inside)
        await inside.load(load_request("kept", path))
        before = await inside.adapters()
        for method, target in CHANGING:
            body = None if method == "GET" else {"lora_name": "kept", "lora_path": path}
            response = await pod.outside.request(method, target, json=body)
            assert (response.status_code, code(response)) == (401, "ProofMissing"), (method, target)
            assert response.json()["error"]["retryable"] is False
        assert (await inside.adapters()) == before
        assert len(double.calls("/v1/load_lora_adapter")) == 1
        assert double.calls("/v1/unload_lora_adapter") == []


async def test_reads_and_probes_stay_open(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        for path in ("/", "/health", "/ready", "/metrics", "/v1/lora_adapters"):
            assert (await pod.outside.get(path)).status_code == 200, path
        assert (await pod.outside.get("/")).json()["access_control_enforced"] is True
        assert "\npatio:access_control_enforced 1.0" in (await pod.outside.get("/metrics")).text


async def test_tiny_scrape_timeouts_are_no_errors_of_the_engine(
    start_pod: StartPod, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        caplog.clear()
        for seconds in ("0.000001", "1e-300", "nan", "-1") * 10:
            answer = await pod.outside.get("/metrics", headers={"x-prometheus-scrape-timeout-seconds": seconds})
            assert "\npatio:engine_up 1.0" in answer.text
            assert not re.search(r"^patio:engine_scrape_errors_total\{.*\} [^0]", answer.text, re.MULTILINE)
        assert [record.getMessage() for record in caplog.records if record.name.startswith("patio")] == []


async def test_header_that_names_loopback_makes_no_local_caller(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        for header in ("x-forwarded-for", "forwarded", "x-real-ip", "host"):
            response = await pod.outside.post("/v1/load_lora_adapter", json={}, headers={header: "127.0.0.1"})
            assert response.status_code == 401


async def test_signed_calls_load_and_unload_with_single_use_proofs(start_pod: StartPod, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    load = load_request("a", path).model_dump_json().encode()
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        jti = "a-random-id-of-a-proof"
        assert contact((await pod.inside.get("/metrics")).text) == 0
        began = time.time()
        response = await pod.call_signed("POST", "/v1/load_lora_adapter", load, jti=jti)
        assert (response.status_code, response.json()["state"]) == (200, "Loaded")
        unload = b'{"lora_name": "a"}'
        assert code(await pod.call_signed("POST", "/v1/unload_lora_adapter", unload, jti=jti)) == "ProofReplayed"
        assert (
            code(await pod.call_signed("POST", "/v1/unload_lora_adapter", unload, iat=time.time() - 91))
            == "ProofExpired"
        )
        assert double.adapters == {"a": path}
        assert (await pod.call_signed("POST", "/v1/unload_lora_adapter", unload)).json()["unloaded"] is True
        assert double.adapters == {}
        text = (await pod.inside.get("/metrics")).text
        assert 'patio:access_denials_total{code="ProofReplayed"} 1.0' in text
        assert began <= contact(text) <= time.time()


def contact(text: str, kind: str = "signed_call") -> float:
    """Return when the operator last called, as the metrics say."""
    series = re.escape(f'patio:operator_contact_timestamp_seconds{{kind="{kind}"}} ')
    (value,) = re.findall(rf"^{series}(\S+)$", text, re.MULTILINE)
    return float(value)


async def test_long_polls_from_outside_are_contact_with_the_operator(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        revision = (await pod.inside.get("/v1/lora_adapters")).json()["revision"]
        for caller, contacted in ((pod.inside, False), (pod.outside, True)):
            await caller.get(f"/v1/lora_adapters?revision={revision}&wait=0.01")
            assert (contact((await pod.inside.get("/metrics")).text, "long_poll") > 0) is contacted


async def test_rejected_calls_are_no_contact_with_the_operator(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        assert (await pod.outside.post("/v1/load_lora_adapter", json={})).status_code == 401
        assert (await pod.outside.get("/health")).status_code == 200
        assert contact((await pod.inside.get("/metrics")).text) == 0


def test_every_code_of_a_rejection_is_counted_from_the_start() -> None:
    folder = Path(patio.access.metrics.__file__).parents[1]
    sources = "".join(
        (folder / name).read_text() for name in ("access/proof.py", "access/limits.py", "routes/access.py")
    )
    assert set(re.findall(r'RequestRejection\(\s*"(\w+)"', sources)) | {PROOF_MISSING, UNKNOWN_KEY} == set(CODES)


async def test_body_that_was_not_signed_changes_nothing(start_pod: StartPod, tmp_path: Path) -> None:
    path = adapter_files(tmp_path / "a")
    signed_body, sent_body = (load_request(name, path).model_dump_json().encode() for name in ("a", "b"))
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        response = await pod.call_signed("POST", "/v1/load_lora_adapter", signed_body, sent=sent_body)
        assert code(response) == "ProofForAnotherRequest"
        assert (await pod.inside.get("/v1/lora_adapters")).json()["adapters"] == []


async def test_proof_for_one_route_opens_no_other(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        proof = ROOT.proof("POST", "/v1/drain?timeout=1", iat=time.time())
        for target in ("/v1/drain", "/v1/drain?timeout=2", "/v1/drain?timeout=1&x=1"):
            response = await pod.outside.post(target, headers={"authorization": f"Patio-Proof {proof}"})
            assert code(response) == "ProofForAnotherRequest"


async def test_bodies_are_bounded_and_unread_without_a_signature(start_pod: StartPod) -> None:
    chunks_read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks_read
        while True:
            chunks_read += 1
            yield b" " * 65536

    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        response = await pod.outside.post("/v1/load_lora_adapter", content=endless())
        assert (response.status_code, chunks_read) == (401, 0)
        proof = ROOT.proof("POST", "/v1/load_lora_adapter", iat=time.time())
        headers = {"authorization": f"Patio-Proof {proof}"}
        response = await pod.outside.post("/v1/load_lora_adapter", content=endless(), headers=headers)
        assert (response.status_code, code(response)) == (413, "BodyTooLarge")
        assert chunks_read <= MAX_BODY // 65536 + 1


async def test_signed_body_and_hang_up_reach_their_route() -> None:
    app = FastAPI()
    add_access(app, Authorizer(ENFORCED, time.time), lambda _: None)

    @app.post("/echo")
    async def echo(request: Request) -> list[str]:
        return [body_digest(await request.body()), (await request.receive())["type"]]

    body = bytes(range(256)) * 1000
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    received = [{"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces]
    received += [{"type": "http.disconnect"}]
    sent: list[Any] = []
    proof = ROOT.proof("POST", "/echo?a=%20", body, iat=time.time())
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/echo",
        "raw_path": b"/echo",
        "query_string": b"a=%20",
        "headers": [(b"authorization", f"Patio-Proof {proof}".encode())],
        "client": ("10.1.2.3", 5),
    }

    async def receive() -> Any:
        return received.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    assert json.loads(sent[1]["body"]) == [body_digest(body), "http.disconnect"]


async def test_denied_upload_leaves_next_call_alone_on_real_server() -> None:
    app = FastAPI()
    add_access(app, Authorizer(ENFORCED, time.time), lambda _: None)

    @app.post("/echo")
    async def echo(request: Request) -> str:
        return body_digest(await request.body())

    async def from_other_pod(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "client": ("10.1.2.3", 5)}, receive, send)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(from_other_pod, lifespan="off", log_config=None))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        body, target = b"x" * 500_000, "/echo?a=b%20c%2F&d=%C3%BC"
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}") as http:
                for _ in range(3):
                    denied = await http.post(target, content=body)
                    assert (denied.status_code, code(denied)) == (401, "ProofMissing")
                    headers = {"authorization": f"Patio-Proof {ROOT.proof('POST', target, body, iat=time.time())}"}
                    accepted = await http.post(target, content=body, headers=headers)
                    assert (accepted.status_code, accepted.json()) == (200, body_digest(body))
        finally:
            server.should_exit = True
            await serving


async def test_picture_that_an_engine_fetches_drains_no_pod(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        for target in ("/v1/drain?timeout=1", "/v1/drain", "/v1/drain%0A?timeout=1", "//v1/drain", "/v1/drain/"):
            for caller in (pod.inside, pod.outside):
                assert not (await caller.get(target, follow_redirects=True)).is_success
        assert await ready(pod.inside)


async def test_page_beside_a_port_forward_changes_nothing(start_pod: StartPod) -> None:
    order = '{"lora_name": "a", "lora_path": "/a", "wait": 0}'
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        for headers in (
            {"content-type": "text/plain"},
            {"content-type": "application/x-www-form-urlencoded"},
            {},
            {"content-type": "application/json", "host": "rebound.example:9091"},
        ):
            for target in ("/v1/load_lora_adapter", "/v1/drain"):
                answer = await pod.inside.post(target, content=order, headers=headers)
                assert (answer.status_code, code(answer)) == (401, "ProofMissing")
                assert "application/json" in answer.json()["error"]["message"]
        assert (await pod.inside.get("/v1/lora_adapters")).json()["adapters"] == []
        assert await ready(pod.inside)


async def test_people_in_the_pod_drain_by_a_post_of_json(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        answer = await pod.inside.post("/v1/drain", json={"timeout": 0.3}, headers={"host": "localhost:9091"})
        assert answer.status_code == 200
        assert not await ready(pod.inside)


async def test_hook_drains_by_get_from_outside_and_from_loopback(start_pod: StartPod) -> None:
    access = AccessSettings(keys=(ROOT.public,), pod_uid=POD, drain_proof_sha256=body_digest(b"word"))
    async with running_double(engine="vllm") as double, start_pod(double, access) as pod:
        for caller in (pod.outside, pod.inside):
            for authorization in ("Patio-Drain ", "Patio-Drain drow", "Patio-Drain word2"):
                answer = await caller.get("/v1/drain?timeout=1", headers={"authorization": authorization})
                assert (answer.status_code, code(answer)) == (401, "ProofInvalid")
        assert await ready(pod.inside)
        for caller in (pod.outside, pod.inside):
            answer = await caller.get("/v1/drain?timeout=0.3", headers={"authorization": "Patio-Drain word"})
            assert answer.status_code == 200
        assert not await ready(pod.inside)


async def test_rejected_calls_fill_no_log_and_their_paths_are_short(
    start_pod: StartPod, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        with caplog.at_level("INFO", "patio.routes.access"):
            for _ in range(100):
                await pod.outside.get("/" + "a" * 4000)
        lines = [record.getMessage() for record in caplog.records if "call rejected" in record.getMessage()]
        assert 1 <= len(lines) <= 40
        assert max(map(len, lines)) < 400
        assert 'code="ProofMissing"} 100.0' in (await pod.inside.get("/metrics")).text


async def test_callers_from_outside_may_change_nothing_without_keys(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double, AccessSettings()) as pod:
        response = await pod.call_signed("POST", "/v1/unload_lora_adapter", b"{}")
        assert code(response) == "ProofMissing"
        assert "PATIO_OPERATOR_KEYS" in response.json()["error"]["message"]
        assert (await pod.inside.post("/v1/unload_lora_adapter", json={"lora_name": "a"})).status_code == 404


async def test_off_switch_opens_everything_and_says_so(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double, AccessSettings(enforced=False)) as pod:
        response = await pod.outside.post("/v1/unload_lora_adapter", json={"lora_name": "a"})
        assert response.status_code == 404
        assert (await pod.outside.get("/")).json()["access_control_enforced"] is False
        assert "\npatio:access_control_enforced 0.0" in (await pod.outside.get("/metrics")).text


async def test_rotated_key_is_taken_with_its_endorsements(start_pod: StartPod) -> None:
    second, third = Signer(2), Signer(3)
    chain = {"patio-endorsements": f"{ROOT.endorse(second)}, {second.endorse(third)}"}
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        target, body = "/v1/unload_lora_adapter", b'{"lora_name": "a"}'
        assert code(await pod.call_signed("POST", target, body, by=third)) == "UnknownKey"
        assert (await pod.call_signed("POST", target, body, by=third, headers=chain)).status_code == 404
        assert (await pod.call_signed("POST", target, body, by=third)).status_code == 404


async def test_client_raises_a_denial_as_a_rejection(start_pod: StartPod) -> None:
    async with running_double(engine="vllm") as double, start_pod(double) as pod:
        with pytest.raises(RejectedError) as raised:
            await SidecarClient("http://sidecar", pod.outside).load(load_request("a"))
        assert (raised.value.code, raised.value.status) == ("ProofMissing", 401)


def test_families_of_access_exist_from_the_start() -> None:
    registry = CollectorRegistry()
    AccessMetrics(registry, True, Contact)
    assert {family.name for family in registry.collect()} == {
        "patio:access_control_enforced",
        "patio:access_denials",
        "patio:operator_contact_timestamp_seconds",
    }

"""Handshakes with the true sidecar's application; strangers at its address; and how much anybody may answer."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from patio.access.settings import AccessSettings
from patio.adapters.store import Store
from patio.app import assemble
from patio.settings import Settings
from patio_operator.loraadapters import handshake as handshakes
from patio_operator.loraadapters.bounded_transport import BoundedTransport
from patio_operator.loraadapters.handshake import Handshakes, UnprovenError
from patio_operator.pods.engine_pod import EnginePod
from patio_operator.security.auth import ProofAuth
from patio_operator.security.signing_keys import new_key as new_signing_key
from patio_operator.security.signing_keys import successor
from patio_operator.security.token_reviews import TokenReviewError
from patio_protocol.adapters import UnloadRequest
from patio_protocol.client import SidecarClient
from patio_protocol.credentials import HandshakeAnswer, HandshakeRequest, TokenText
from patio_protocol.engines import EngineKind
from patio_protocol.errors import RejectedError, UnreachableError
from patio_protocol.sealed_boxes import box, new_key
from patio_testing.operator.builders import review_status

POD = EnginePod("team", "pod-0", "uid-0", "node-a", {}, "10.1.2.3")
TOKEN = "a-token-that-nobody-may-see"
KEY = new_signing_key(datetime.now(UTC))


@dataclass
class ApiServer:
    """Knows which tokens are whose."""

    tokens: dict[str, str] = field(default_factory=lambda: {TOKEN: "uid-0"})
    fault: TokenReviewError | None = None
    reviewed: list[str] = field(default_factory=list)

    async def review(self, token: str) -> dict[str, Any]:
        self.reviewed.append(token)
        if self.fault is not None:
            raise self.fault
        uid = self.tokens.get(token)
        status = {"authenticated": False, "error": "unknown"} if uid is None else review_status("team", uid)
        return {"status": status}


@asynccontextmanager
async def sidecar(folder: Path, uid: str = "uid-0", key: str = KEY.public) -> AsyncIterator[httpx.AsyncBaseTransport]:
    """The true sidecar of a pod, as it is reached from elsewhere."""
    (folder / "token").write_text(TOKEN)
    settings = Settings(
        engine=EngineKind.VLLM,
        engine_endpoint="http://127.0.0.1:9",
        access=AccessSettings(keys=(key,) if key else (), pod_uid=uid, token_file=str(folder / "token")),
    )
    async with httpx.AsyncClient() as http:
        parts = assemble(settings, Store(None), http, asyncio.Event())
        yield httpx.ASGITransport(app=parts.app, client=("10.9.9.9", 5))
        await parts.close()


@asynccontextmanager
async def called(transport: httpx.AsyncBaseTransport, key: Any = KEY) -> AsyncIterator[SidecarClient]:
    """The operator's client of what is behind a transport."""

    async def look_up() -> None: ...

    async with httpx.AsyncClient(transport=BoundedTransport(transport), trust_env=False) as http:
        yield SidecarClient("http://10.1.2.3:9091", http, ProofAuth("uid-0", lambda: key, look_up, time.time))


async def test_true_sidecar_proves_itself_once_in_a_while(tmp_path: Path) -> None:
    api, now = ApiServer(), [0.0]
    shakes = Handshakes(api.review, lambda: now[0])
    async with sidecar(tmp_path) as transport, called(transport) as client:
        key = await shakes.key(POD, client)
        assert await shakes.key(POD, client) == key
        assert api.reviewed == [TOKEN]
        assert TOKEN not in repr(shakes._proven)
        now[0] = handshakes.PROVEN_SECONDS
        assert await shakes.key(POD, client) == key
        shakes.forget("uid-0")
        assert await shakes.key(POD, client) == key
        assert len(api.reviewed) == 3
    async with sidecar(tmp_path) as transport, called(transport) as client:
        shakes.forget("uid-0")
        assert await shakes.key(POD, client) != key, "of another process"


async def test_pod_of_an_older_key_follows_in_a_handshake(tmp_path: Path) -> None:
    newer = successor(KEY, datetime.now(UTC))
    async with sidecar(tmp_path) as transport, called(transport, newer) as client:
        assert await Handshakes(ApiServer().review).key(POD, client)


async def test_token_of_another_pod_proves_nothing(tmp_path: Path) -> None:
    api = ApiServer({TOKEN: "uid-other"})
    async with sidecar(tmp_path) as transport, called(transport) as client:
        with pytest.raises(UnprovenError, match="another pod"):
            await Handshakes(api.review).key(POD, client)


async def test_sidecar_without_the_operators_key_is_unproven(tmp_path: Path) -> None:
    async with sidecar(tmp_path, key="") as transport, called(transport) as client:
        with pytest.raises(UnprovenError, match="no key of the operator"):
            await Handshakes(ApiServer().review).key(POD, client)


async def test_sidecar_of_another_pod_rejects_the_call(tmp_path: Path) -> None:
    async with sidecar(tmp_path, uid="uid-other") as transport, called(transport) as client:
        with pytest.raises(RejectedError, match="ProofForAnotherPod"):
            await Handshakes(ApiServer().review).key(POD, client)


@pytest.mark.parametrize("reason", ["TokenReviewForbidden", "TokenNotReviewed"])
async def test_token_without_a_review_is_no_proof(tmp_path: Path, reason: str) -> None:
    api = ApiServer(fault=TokenReviewError(reason, "words"))
    shakes = Handshakes(api.review)
    async with sidecar(tmp_path) as transport, called(transport) as client:
        for _ in range(2):
            with pytest.raises(TokenReviewError) as caught:
                await shakes.key(POD, client)
            assert caught.value.reason == reason
        api.fault = None
        assert await shakes.key(POD, client)


async def test_keys_are_kept_for_so_many_pods(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshakes, "MOST_PROVEN", 3)
    keys: dict[str, str] = {}

    def honest(request: httpx.Request) -> httpx.Response:
        own_key, uid = new_key(), request.headers["pod"]
        keys[uid] = own_key.public
        text = TokenText(pod=uid, token=uid).model_dump_json().encode()
        proof = box(text, own_key, HandshakeRequest.model_validate_json(request.content).key)
        return httpx.Response(200, content=HandshakeAnswer(key=own_key.public, proof=proof or "").model_dump_json())

    api = ApiServer({f"uid-{number}": f"uid-{number}" for number in range(5)})
    shakes = Handshakes(api.review)
    for number in (0, 1, 2, 3, 4, 4, 3, 2):
        pod = EnginePod("team", f"pod-{number}", f"uid-{number}", "node-a", {}, "10.1.2.3")
        async with httpx.AsyncClient(transport=httpx.MockTransport(honest), headers={"pod": pod.uid}) as http:
            assert await shakes.key(pod, SidecarClient("http://sidecar", http)) == keys[pod.uid]
    assert api.reviewed == [f"uid-{number}" for number in range(5)]


# --- strangers at the address

Answer = Callable[[httpx.Request], httpx.Response]


def answered(status: int, content: bytes | str = b"", **headers: str) -> Answer:
    return lambda _: httpx.Response(status, content=content, headers=headers)


def made_up(token: str) -> Answer:
    """A stranger that speaks the protocol, with a token that it got somewhere."""

    def answer(request: httpx.Request) -> httpx.Response:
        own_key = new_key()
        text = TokenText(pod="uid-0", token=token).model_dump_json().encode()
        proof = box(text, own_key, HandshakeRequest.model_validate_json(request.content).key)
        return httpx.Response(200, content=HandshakeAnswer(key=own_key.public, proof=proof or "").model_dump_json())

    return answer


STRANGERS: dict[str, Answer] = {
    "another program": answered(200, "<html>"),
    "json": answered(200, json.dumps([[]] * 1000)),
    "deep": answered(200, "[" * 100_000),
    "an older sidecar": answered(404, json.dumps({"error": {"code": "NotFound", "message": "", "retryable": False}})),
    "a redirect": answered(307, location="http://169.254.169.254/latest"),
    "no key": answered(200, json.dumps({"key": "A" * 43, "proof": "x" * 200})),
    "an empty proof": answered(200, json.dumps({"key": new_key().public, "proof": ""})),
    "a token of its own": made_up("a-made-up-token"),
    "bytes": answered(200, bytes(range(256))),
}


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_stranger_proves_nothing_and_the_remedy_is_reported(stranger: str) -> None:
    requests: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(str(request.url))
        return STRANGERS[stranger](request)

    async with called(httpx.MockTransport(answer)) as client:
        with pytest.raises(UnprovenError, match="Recreate the pod"):
            await Handshakes(ApiServer().review).key(POD, client)
    assert requests == ["http://10.1.2.3:9091/v1/credentials/handshake"], "no redirect is followed"


async def test_recorded_answer_proves_nothing_later(tmp_path: Path) -> None:
    recorded: list[bytes] = []
    async with sidecar(tmp_path) as transport:

        class Recording(httpx.AsyncBaseTransport):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                response = await transport.handle_async_request(request)
                recorded.append(await response.aread())
                return httpx.Response(response.status_code, content=recorded[-1])

        async with called(Recording()) as client:
            assert await Handshakes(ApiServer().review).key(POD, client), "handed on, by a stranger or not"
    assert TOKEN.encode() not in b"".join(recorded)
    async with called(httpx.MockTransport(answered(200, recorded[-1]))) as client:
        with pytest.raises(UnprovenError, match="no readable proof"):
            await Handshakes(ApiServer().review).key(POD, client)


# --- how much anybody may answer


class Whole(httpx.AsyncByteStream):
    """A body in one piece, as a network gives it."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.body


class Endless(httpx.AsyncByteStream):
    def __init__(self) -> None:
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += 65536
            yield b" " * 65536


@pytest.mark.parametrize("status", [200, 401, 500])
async def test_endless_answer_is_ended(status: int) -> None:
    stream = Endless()
    headers = {"www-authenticate": 'Patio-Proof error="UnknownKey"'}
    transport = httpx.MockTransport(lambda _: httpx.Response(status, stream=stream, headers=headers))
    limit = 1_000_000
    async with httpx.AsyncClient(transport=BoundedTransport(transport, limit)) as http:

        async def look_up() -> None: ...

        newer = successor(KEY, datetime.now(UTC))
        client = SidecarClient("http://sidecar", http, ProofAuth("uid-0", lambda: newer, look_up))
        with pytest.raises(UnreachableError, match="longer than 1000000 bytes"):
            await client.adapters()
    assert stream.sent <= limit + 65536


async def test_compressed_answer_is_not_taken() -> None:
    content = gzip.compress(b" " * 10_000_000)
    transport = httpx.MockTransport(answered(200, content, **{"content-encoding": "gzip"}))
    async with httpx.AsyncClient(transport=BoundedTransport(transport)) as http:
        with pytest.raises(UnreachableError, match="compressed"):
            await SidecarClient("http://sidecar", http).adapters()


async def test_answer_to_an_order_that_decodes_slowly_is_rejected() -> None:
    body = b'{"x":[' + b"[]," * 100_000 + b"[]]}"
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Whole(body)))
    async with httpx.AsyncClient(transport=BoundedTransport(transport)) as http:
        with pytest.raises(UnreachableError, match="the answer is longer than"):
            await SidecarClient("http://sidecar", http).unload(UnloadRequest(lora_name="a"))


@pytest.mark.parametrize("limit", [999, 1000])
async def test_answer_at_the_limit_is_taken_and_none_past_it(limit: int) -> None:
    body = json.dumps({"ready": True, "waiting_for": []}).ljust(1000).encode()
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Whole(body)))
    async with httpx.AsyncClient(transport=BoundedTransport(transport, limit)) as http:
        if limit == 1000:
            assert (await SidecarClient("http://sidecar", http).ready()).ready
        else:
            with pytest.raises(UnreachableError):
                await SidecarClient("http://sidecar", http).ready()

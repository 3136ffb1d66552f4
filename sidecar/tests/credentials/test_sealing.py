"""A sidecar proves which pod it is in, to the operator alone, and opens what was sealed for it: over its whole API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine_double import Double, running_double
from patio.access.settings import AccessSettings
from patio.adapters.store import Store
from patio.app import assemble
from patio.credentials.token import TokenError, read_token
from patio.downloads.settings import DownloadSettings
from patio.settings import Settings
from patio_protocol.adapters import LoadRequest
from patio_protocol.credentials import (
    HANDSHAKE_PATH,
    MAX_TOKEN,
    CredentialsText,
    HandshakeAnswer,
    HandshakeRequest,
    TokenText,
    order_digest,
    sealed_field,
)
from patio_protocol.engines import EngineKind
from patio_protocol.sealed_boxes import new_key, open_box, seal
from patio_testing.sidecar.builders import adapter_files, eventually
from patio_testing.sidecar.download_sources import TOKEN, running_hub
from patio_testing.sidecar.proof_builders import POD, Signer

ROOT = Signer(1)
LOAD = "/v1/load_lora_adapter"
POD_TOKEN = "eyJhbGciOiJSUzI1NiJ9.the-token-of-this-pod"


@dataclass
class Pod:
    """A sidecar beside a double, called from two places, and its token's file."""

    inside: httpx.AsyncClient
    outside: httpx.AsyncClient
    token: Path

    async def signed(self, client: httpx.AsyncClient, target: str, body: bytes) -> httpx.Response:
        proof = ROOT.proof("POST", target, body, iat=time.time())
        headers = {"authorization": f"Patio-Proof {proof}", "content-type": "application/json"}
        return await client.post(target, content=body, headers=headers)

    async def handshake(self) -> HandshakeAnswer:
        """Make a handshake from outside, and see that it is good."""
        key = new_key()
        response = await self.signed(self.outside, HANDSHAKE_PATH, body_of(HandshakeRequest(key=key.public)))
        assert response.status_code == 200, response.text
        answer = HandshakeAnswer.model_validate_json(response.content)
        text = TokenText.model_validate_json(open_box(answer.proof, key, answer.key) or b"")
        assert (text.pod, text.token) == (POD, self.token.read_text().strip())
        assert self.token.read_text().strip() not in response.text
        return answer


@contextlib.asynccontextmanager
async def started(double: Double | str, folder: Path, *, enforced: bool = True) -> AsyncIterator[Pod]:
    token = folder / "token"
    if not token.exists():
        token.write_text(POD_TOKEN + "\n")
    settings = Settings(
        engine=EngineKind.VLLM,
        engine_endpoint=str(double),
        access=AccessSettings(enforced, (ROOT.public,), POD, token_file=str(token)),
        downloads=DownloadSettings(root=folder / "root"),
    )
    stopping = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx.AsyncClient())
        parts = assemble(settings, Store(folder / "state.json"), http, stopping)
        running = asyncio.create_task(parts.run())
        places = [
            await stack.enter_async_context(
                httpx.AsyncClient(
                    transport=httpx.ASGITransport(app=parts.app, client=(peer, 5)), base_url="http://sidecar"
                )
            )
            for peer in ("127.0.0.1", "10.1.2.3")
        ]
        try:
            yield Pod(*places, token)
        finally:
            stopping.set()
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await parts.close()


def body_of(model: Any) -> bytes:
    return bytes(model.model_dump_json(exclude_none=True, exclude_unset=True).encode())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def sealed(order: LoadRequest, key: str, **config: str) -> LoadRequest:
    text = CredentialsText(pod=POD, order=order_digest(order), config=config)
    box = seal(text.model_dump_json().encode(), key)
    assert box is not None
    return order.model_copy(update={"sealed_credentials": sealed_field(key, box)})


JSON = {"content-type": "application/json"}
NOBODY = "http://127.0.0.1:9"
"""An engine that is not there: these tests load nothing."""


SPELLINGS = (
    *(f"{HANDSHAKE_PATH}/", f"/{HANDSHAKE_PATH}", f"{HANDSHAKE_PATH};a", f"{HANDSHAKE_PATH}?a=1"),
    *("/v1/credentials/%68andshake", "/v1/CREDENTIALS/handshake", "/v1/credentials/./handshake"),
)


@pytest.mark.parametrize("enforced", [True, False])
async def test_unsigned_caller_gets_the_token_from_nowhere(tmp_path: Path, enforced: bool) -> None:
    body = body_of(HandshakeRequest(key=new_key().public))
    async with started(NOBODY, tmp_path, enforced=enforced) as pod:
        for client in (pod.inside, pod.outside):
            for method in ("POST", "GET", "HEAD", "OPTIONS", "PUT"):
                response = await client.request(method, HANDSHAKE_PATH, content=body, headers=JSON)
                assert response.status_code in ((401,) if method == "POST" else (401, 405)), method
                assert "proof" not in response.text
            headers = {"authorization": "Patio-Drain word"}
            assert (await client.post(HANDSHAKE_PATH, content=body, headers=headers)).status_code == 401
            for path in SPELLINGS:
                response = await client.post(path, content=body, headers=JSON)
                assert "proof" not in response.text, path
                assert response.status_code in (307, 400, 401, 404), path


async def test_signed_caller_gets_the_token_as_it_is_now(tmp_path: Path) -> None:
    async with started(NOBODY, tmp_path) as pod:
        first = await pod.handshake()
        pod.token.write_text("another-token-by-now")
        second = await pod.handshake()
        assert first.key == second.key, "one key for the life of the process"
    async with started(NOBODY, tmp_path) as pod:
        assert (await pod.handshake()).key != first.key


async def test_handshake_with_no_key_is_rejected(tmp_path: Path) -> None:
    async with started(NOBODY, tmp_path) as pod:
        for key in ("A" * 43, "x", ""):
            response = await pod.signed(pod.outside, HANDSHAKE_PATH, json.dumps({"key": key}).encode())
            assert (response.status_code, response.json()["error"]["code"]) == (400, "InvalidRequest"), key


async def test_sidecar_without_a_token_says_so(tmp_path: Path) -> None:
    async with started(NOBODY, tmp_path) as pod:
        pod.token.unlink()
        body = body_of(HandshakeRequest(key=new_key().public))
        response = await pod.signed(pod.outside, HANDSHAKE_PATH, body)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "TokenMissing")
        assert "Recreate the pod" in response.json()["error"]["message"]


def test_what_is_no_token_is_not_read_as_one(tmp_path: Path) -> None:
    file = tmp_path / "token"
    for content in (b"", b" \n", b"two words", b"\xff\xfe", b"x" * (MAX_TOKEN + 1), b"a\x00b"):
        file.write_bytes(content)
        with pytest.raises(TokenError, match="does not contain a service account token"):
            read_token(str(file))
    file.write_bytes(b"x" * MAX_TOKEN)
    assert len(read_token(str(file))) == MAX_TOKEN
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none", "/dev/zero"):
        with pytest.raises(TokenError):
            read_token(str(path))


async def test_sealed_credentials_reach_the_source_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "patio")
    files = contents(Path(adapter_files(tmp_path / "published")))
    with running_hub(files, token=TOKEN) as hub:
        config = json.dumps({"hf_endpoint": hub.url})
        order = LoadRequest(lora_name="sql", source="hf://team/adapter", config=config, owner="me", wait=0)
        async with running_double(engine="vllm") as double, started(double, tmp_path) as pod:
            key = (await pod.handshake()).key
            body = body_of(sealed(order, key, hf_token=TOKEN))
            assert TOKEN.encode() not in body
            response = await pod.signed(pod.outside, LOAD, body)
            assert response.status_code == 202, response.text

            async def loaded() -> bool:
                report = (await pod.inside.get("/v1/lora_adapters")).json()["adapters"][0]
                return bool(report["state"] == "Loaded")

            await eventually(loaded, "it is loaded")
            answers = (await pod.inside.get("/v1/lora_adapters")).text + (await pod.inside.get("/v1/downloads")).text
        stored = repr(contents(tmp_path))
        for text in (answers, stored, caplog.text, response.text):
            assert TOKEN not in text


async def test_credentials_for_another_start_or_order_change_nothing(tmp_path: Path) -> None:
    order = LoadRequest(lora_name="sql", source="s3://bucket/sql", owner="me", wait=0)
    async with started(NOBODY, tmp_path) as pod:
        sealed_order = sealed(order, (await pod.handshake()).key, access_key="a", secret_key="b")
        other = sealed_order.model_copy(update={"source": "s3://anothers/sql"})
        # From inside the pod, where no signature is asked for: a container that saw the order go by.
        response = await pod.inside.post(LOAD, content=body_of(other), headers=JSON)
        assert (response.status_code, response.json()["error"]["code"]) == (409, "SealedInvalid")
        assert (await pod.inside.get("/v1/lora_adapters")).json()["adapters"] == []
    async with started(NOBODY, tmp_path) as pod:
        response = await pod.signed(pod.outside, LOAD, body_of(sealed_order))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["retryable"]) == (409, "SealedForAnother", True)
        assert (await pod.inside.get("/v1/lora_adapters")).json()["adapters"] == []


@pytest.mark.parametrize(
    "fields", [{"lora_path": "/adapters/x"}, {"source": "s3://bucket/sql", "expects_credentials": True}]
)
def test_only_an_order_for_a_source_has_sealed_credentials(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="sealed_credentials"):
        LoadRequest(lora_name="sql", sealed_credentials="k.t", **fields)

"""One request and its answer: deadlines and sizes that are kept, whatever the engine sends."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import tracemalloc
from pathlib import Path
from typing import Any

import httpx
import pytest

from patio.exchange import Answer, ExchangeError, exchange
from patio.network import Cause
from patio_testing.sidecar.engine_stand_ins import answering, authority, saying

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


async def ask(port: int, http: httpx.AsyncClient | None = None, *, scheme: str = "http", **arguments: Any) -> Answer:
    url = f"{scheme}://127.0.0.1:{port}/x"
    all_arguments: dict[str, Any] = {"seconds": 20.0, "largest": 1000, "headers": {}, **arguments}
    async with http or httpx.AsyncClient(trust_env=False) as client:
        return await exchange(client, "GET", url, where="the engine", path="/x", **all_arguments)


async def test_answer_within_its_limits_is_whole() -> None:
    async with answering(saying(HEAD + b"content-length: 4\r\n\r\nlist")) as port:
        answer = await ask(port, largest=4)
    assert (answer.status, answer.text, answer.whole, answer.is_success) == (200, "list", True, True)


async def test_byte_too_many_cuts_it_and_says_so() -> None:
    async with answering(saying(HEAD + b"content-length: 5\r\n\r\nlists")) as port:
        answer = await ask(port, largest=4)
    assert (answer.text, answer.whole) == ("list", False)


@pytest.mark.parametrize(
    ("first", "repeated"),
    [
        (CHUNKED, b"1\r\nx\r\n"),
        (HEAD, b"x-more: y\r\n"),
        (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
        (HEAD + b"content-length: 100\r\n\r\n", b"x"),
    ],
)
async def test_answer_that_drips_has_a_total_deadline(first: bytes, repeated: bytes) -> None:
    async with answering(saying(first, pause=0.02, forever=repeated)) as port:
        with pytest.raises(ExchangeError) as raised:
            await ask(port, seconds=0.5, largest=10**6)
        # It drips for ever, so any end is the deadline's.
        assert raised.value.cause is Cause.TIMED_OUT


async def test_chunks_without_an_end_are_cut_at_the_limit() -> None:
    async with answering(saying(CHUNKED, forever=b"400\r\n" + b"x" * 1024 + b"\r\n")) as port:
        answer = await ask(port, largest=10_000)
    assert (len(answer.content), answer.whole) == (10_000, False)


async def test_headers_without_an_end_are_a_broken_answer() -> None:
    async with answering(saying(HEAD, forever=b"x-more: " + b"y" * 1000 + b"\r\n")) as port:
        with pytest.raises(ExchangeError) as raised:
            await ask(port)
    assert raised.value.cause is Cause.BROKEN


async def test_what_is_compressed_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(64 * 2**20))
    head = HEAD + b"content-encoding: gzip\r\ncontent-length: " + str(len(bomb)).encode() + b"\r\n\r\n"
    async with answering(saying(head + bomb)) as port:
        tracemalloc.start()
        answer = await ask(port, largest=16 * 2**20)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert not answer.whole
    assert peak < 8 * 2**20


async def test_compression_is_not_accepted() -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(HEAD + b"content-length: 0\r\n\r\n")

    async with answering(answer) as port:
        await ask(port)
    assert b"accept-encoding: identity\r\n" in requests[0].lower()
    assert requests[0].lower().count(b"accept-encoding") == 1


async def test_redirect_is_an_answer_and_is_not_followed() -> None:
    requests: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 307 Temporary Redirect\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n")

    async with answering(answer) as port:
        assert (await ask(port, httpx.AsyncClient(follow_redirects=True))).status == 307
    assert len(requests) == 1


async def test_tls_alert_behind_the_handshake_is_an_exchange_error(tmp_path: Path) -> None:
    # TLS 1.3: that a client's certificate is missing is told only with the first answer, as a bare ssl.SSLError.
    private = authority(tmp_path, "127.0.0.1")
    private.server.verify_mode = ssl.CERT_REQUIRED
    private.server.load_verify_locations(private.file)
    async with answering(saying(HEAD + b"content-length: 0\r\n\r\n"), tls=private.server) as port:
        http = httpx.AsyncClient(verify=ssl.create_default_context(cafile=str(private.file)))
        with pytest.raises(ExchangeError) as raised:
            await ask(port, http, scheme="https")
    assert raised.value.cause in (Cause.TLS, Cause.BROKEN)


@pytest.mark.parametrize("url", ["http://[::1", "http://a b/", "gopher://x/", "http://" + "é" * 70])
async def test_url_that_is_none_is_an_exchange_error(url: str) -> None:
    async with httpx.AsyncClient() as http:
        with pytest.raises(ExchangeError):
            await exchange(http, "GET", url, where="the engine", path="/x", seconds=1, largest=1, headers={})

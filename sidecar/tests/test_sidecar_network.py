"""Why nobody answers, told apart by real errors of real sockets; and the words of such errors."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest

from patio.network import Cause, call_message, cause_of
from patio_protocol.error_text import error_message
from patio_testing.deadline import DEADLINE
from patio_testing.sidecar.engine_stand_ins import answering, authority, saying

Ask = Callable[[str], Awaitable[BaseException]]


async def failing(url: str, http: httpx.AsyncClient | None = None, **request: object) -> BaseException:
    """Ask, and return the error."""
    async with http or httpx.AsyncClient(trust_env=False) as client:
        try:
            await client.get(url, timeout=0.5, **request)  # type: ignore[arg-type]  # headers alone
        except (httpx.HTTPError, OSError, ValueError) as error:
            return error
    raise AssertionError("it was answered")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_refused_connection_is_nothing_that_listens(host: str) -> None:
    error = await failing(f"http://{host}:{closed_port()}")
    assert cause_of(error) is Cause.REFUSED
    assert error_message(error) == "Connection refused"


async def test_missing_socket_is_the_same_as_one_that_refuses(tmp_path: Path) -> None:
    async def ask(path: Path) -> Cause:
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        return cause_of(await failing("http://localhost/", httpx.AsyncClient(transport=transport)))

    assert await ask(tmp_path / "nowhere") is Cause.REFUSED
    left_behind = socket.socket(socket.AF_UNIX)
    left_behind.bind(str(tmp_path / "left"))
    left_behind.close()
    assert await ask(tmp_path / "left") is Cause.REFUSED


async def test_certificate_of_an_unknown_ca_is_reported_as_such(tmp_path: Path) -> None:
    async with answering(saying(b""), tls=authority(tmp_path, "localhost").server) as port:
        error = await failing(f"https://localhost:{port}")
    assert cause_of(error) is Cause.TLS
    assert error_message(error) == "unable to get local issuer certificate"


async def test_server_that_speaks_no_tls_is_reported_as_such() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async with answering(plain) as port:
        error = await failing(f"https://127.0.0.1:{port}")
    assert cause_of(error) is Cause.TLS
    assert error_message(error) == "wrong version number"


async def test_handshake_that_ends_at_once_is_of_tls() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    async with answering(hang_up) as port:
        assert cause_of(await failing(f"https://127.0.0.1:{port}")) is Cause.TLS


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 70 + ".invalid"])
async def test_name_that_is_not_found_is_reported_as_such(host: str) -> None:
    error = await failing(f"http://{host}:1")
    assert cause_of(error) is Cause.NAME
    assert "listens" not in call_message("the engine", "/health", error)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_too_many_open_files_are_the_sidecars_fault(host: str) -> None:
    http = httpx.AsyncClient(trust_env=False)
    url = f"http://{host}:{closed_port()}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = socket.socket()
    lowest = probe.fileno()
    held = [probe]
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 32, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(socket.socket())
        error = await failing(url, http)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for opened in held:
            opened.close()
    assert cause_of(error) is Cause.OUR_LIMIT
    message = call_message("the engine", "/health", error)
    assert "could not call the engine" in message
    if host != "localhost":  # a look-up of a name keeps no errno that means anything
        assert "Too many open files" in message


async def test_no_answer_in_time_and_a_pool_that_is_full_differ() -> None:
    reached = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        while await reader.read(100):
            pass

    async with answering(hang) as port:
        url = f"http://127.0.0.1:{port}"
        assert cause_of(await failing(url)) is Cause.TIMED_OUT
        async with httpx.AsyncClient(limits=httpx.Limits(max_connections=1)) as http:
            reached.clear()
            first = asyncio.create_task(http.get(url, timeout=DEADLINE))
            await asyncio.wait_for(reached.wait(), DEADLINE)
            with pytest.raises(httpx.PoolTimeout) as raised:
                await http.get(url, timeout=httpx.Timeout(5, pool=0.05))
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
    assert cause_of(raised.value) is Cause.OUR_LIMIT


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", b"SSH-2.0-OpenSSH_9.6\r\n"]
)
async def test_what_breaks_off_is_something_that_listens(answer: bytes) -> None:
    async with answering(saying(answer)) as port:
        error = await failing(f"http://127.0.0.1:{port}")
    assert cause_of(error) is Cause.BROKEN


def test_all_addresses_of_a_name_have_to_refuse() -> None:
    def group(*codes: int) -> httpx.ConnectError:
        error = httpx.ConnectError("All connection attempts failed")
        error.__cause__ = OSError("All connection attempts failed")
        error.__cause__.__cause__ = ExceptionGroup("", [OSError(code, "") for code in codes])
        return error

    assert cause_of(group(errno.ECONNREFUSED, errno.EADDRNOTAVAIL)) is Cause.REFUSED
    assert cause_of(group(errno.ECONNREFUSED, errno.EMFILE)) is Cause.OUR_LIMIT
    assert cause_of(group(errno.ECONNREFUSED, errno.EHOSTUNREACH)) is Cause.UNREACHABLE
    assert cause_of(group(errno.EACCES)) is Cause.UNREACHABLE
    assert cause_of(httpx.ConnectError("")) is Cause.UNREACHABLE


@pytest.mark.parametrize("key", ["sekret\nword", "sécret", "sekret\0"])
async def test_header_that_cannot_be_sent_is_in_no_message(key: str) -> None:
    async with answering(saying(b"")) as port:
        error = await failing(f"http://127.0.0.1:{port}", headers={"authorization": f"Bearer {key}"})
    assert cause_of(error) is Cause.UNSENDABLE
    message = call_message("the engine", "/health", error)
    assert not [part for part in ("sekret", "cret", "word", "\\xe9") if part in message]

"""One GET: limits, failures, and lists of models."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from inference_server.http_check import MAX_BODY, Answer, get, model_ids


@pytest.fixture
def served() -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends what is in the list to each connection, and closes it."""
    words: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    try:
                        connection.sendall(words[0])
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models?x=1", words
        listener.shutdown(socket.SHUT_RDWR)


def test_body_is_read_up_to_its_limit(served: tuple[str, list[bytes]]) -> None:
    url, words = served
    words.append(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY + 1))
    answer = get(url, 60)
    assert answer is not None
    assert len(answer.body) == MAX_BODY
    assert answer.json() is None


@pytest.mark.parametrize("junk", [b"", b"\x00\xff", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200])
def test_server_that_speaks_no_http_gives_no_answer(served: tuple[str, list[bytes]], junk: bytes) -> None:
    url, words = served
    words.append(junk)
    assert get(url, 60) is None


def test_closed_port_gives_no_answer() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert get(f"http://127.0.0.1:{bound.getsockname()[1]}", 60) is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"data": [{"id": "a"}, {"id": 1}, 2, {"id": "b"}]}', {"a", "b"}),
        (b'{"data": []}', set()),
        (b'{"data": {}}', None),
        (b"[]", None),
        (b"\xff", None),
    ],
)
def test_ids_of_models_are_read(body: bytes, expected: set[str] | None) -> None:
    assert model_ids(Answer(200, body)) == expected
    assert model_ids(Answer(401, body)) is None
    assert model_ids(None) is None

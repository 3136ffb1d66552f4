"""The socket of the forwarder, and how many processes it starts."""

from __future__ import annotations

import asyncio
import socket

import pytest

from inference_server.ports import free_port
from patio_gateway.forwarder.server import NoSocketError, listening, processes
from patio_testing.deadline import DEADLINE


@pytest.mark.parametrize(
    ("host", "addresses"),
    [("127.0.0.1", ["127.0.0.1"]), ("0.0.0.0", ["127.0.0.1"]), (None, ["127.0.0.1", "::1"]), ("::", ["::1"])],
)
def test_socket_listens_where_it_should(host: str | None, addresses: list[str]) -> None:
    if "::1" in addresses and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    port = free_port()
    with listening(host, port):
        for address in addresses:
            socket.create_connection((address, port), timeout=10).close()


async def test_answers_do_not_wait_for_more_bytes() -> None:
    """Nagle's algorithm together with late acknowledgements costs 40 ms for each answer."""
    port = free_port()
    connected: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def note(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        connected.set_result(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async with await asyncio.start_server(note, sock=listening("127.0.0.1", port)):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await asyncio.wait_for(connected, DEADLINE)
        writer.close()


def test_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(NoSocketError, match=r"Cannot listen on 192\.0\.2\.1, port 5000: "):
        listening("192.0.2.1", 5000)


def test_processes_are_at_most_as_many_as_cpus() -> None:
    assert processes(1) == 1
    assert 1 <= processes(10_000) <= 4096

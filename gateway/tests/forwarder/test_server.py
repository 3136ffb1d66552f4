"""The socket of the forwarder, and how many processes it starts."""

from __future__ import annotations

import socket

import pytest

from inference_server.ports import free_port
from patio_gateway.forwarder.server import NoSocketError, listening, processes


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


def test_address_of_another_machine_is_an_error() -> None:
    with pytest.raises(NoSocketError, match=r"Cannot listen on 192\.0\.2\.1, port 5000: "):
        listening("192.0.2.1", 5000)


def test_processes_are_at_most_as_many_as_cpus() -> None:
    assert processes(1) == 1
    assert 1 <= processes(10_000) <= 4096

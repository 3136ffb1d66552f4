"""Who holds a port."""

from __future__ import annotations

import os
import socket

from inference_server.ports import first_ephemeral, free_port, holders, is_free, is_held_by, parse_listeners

TABLE = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0
   1: 0100007F:1F90 0100007F:A001 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0
"""


def test_only_listeners_on_the_port_are_found() -> None:
    assert parse_listeners(TABLE, 8080) == {"4711"}
    assert parse_listeners(TABLE, 1) == set()


def test_holder_of_a_port_is_the_process_that_listens() -> None:
    port = free_port()
    assert is_free(port)
    assert is_held_by(port, [os.getpid()]) is None
    with socket.create_server(("127.0.0.1", port)):
        assert not is_free(port)
        assert holders(port) == [os.getpid()]
        assert is_held_by(port, [os.getpid()]) is True
        assert is_held_by(port, [1, os.getppid()]) is False


def test_free_port_is_none_of_outgoing_connections() -> None:
    assert first_ephemeral() > 1024
    assert all(free_port() < first_ephemeral() for _ in range(20))

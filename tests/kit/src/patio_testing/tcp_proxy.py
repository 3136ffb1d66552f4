"""A proxy of TCP on loopback, which can be cut or made slow: what a network between two processes is in a cluster."""

from __future__ import annotations

import itertools
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress


class TcpProxy:
    """Passes connections on to one port after the other, but for those that do not listen. Close it at the end."""

    def __init__(self, ports: Callable[[], Sequence[int]], answer_delay: float = 0.0) -> None:
        """`answer_delay` is the seconds by which everything that the other end sends arrives later."""
        self._ports = ports
        self._answer_delay = answer_delay
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._cut = False
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and take no new one."""
        self._cut = True
        for connection in tuple(self._connections):
            _end(connection)

    def mend(self) -> None:
        """Take connections again."""
        self._cut = False

    def close(self) -> None:
        """Stop for good."""
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        for turn in itertools.count():
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._pass_on, args=(caller, turn), daemon=True).start()

    def _pass_on(self, caller: socket.socket, turn: int) -> None:
        ports = () if self._cut else self._ports()
        for index in range(len(ports)):
            try:
                called = socket.create_connection(("127.0.0.1", ports[(turn + index) % len(ports)]))
            except OSError:
                continue
            self._connections |= {caller, called}
            threading.Thread(target=self._pump, args=(caller, called), daemon=True).start()
            if self._answer_delay:
                self._pump_late(called, caller)
            else:
                self._pump(called, caller)
            return
        caller.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for connection in (source, target):
                _end(connection)
                self._connections.discard(connection)

    def _pump_late(self, source: socket.socket, target: socket.socket) -> None:
        """Pass on what arrives, each part `answer_delay` after it came: parts do not wait for one another."""
        parts: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()

        def receive() -> None:
            data = b"-"
            while data:
                try:
                    data = source.recv(65536)
                except OSError:
                    data = b""
                parts.put((time.monotonic() + self._answer_delay, data))

        threading.Thread(target=receive, daemon=True).start()
        with suppress(OSError):
            while True:
                due, data = parts.get()
                if not data:
                    break
                time.sleep(max(0.0, due - time.monotonic()))
                target.sendall(data)
        for connection in (source, target):
            _end(connection)
            self._connections.discard(connection)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):  # it may have ended already
        connection.shutdown(socket.SHUT_RDWR)

"""An engine of several nodes: who serves, who waits for whom, and what happens when the first one is gone."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest

from patio_testing.deadline import DEADLINE

NODES = 3


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class Node:
    """One process of the engine."""

    def __init__(self, rank: int, dist_port: int) -> None:
        self.port = free_port()
        command = ["-m", "sglang.launch_server", "--host", "127.0.0.1", "--port", str(self.port)]
        node_flags = ["--nnodes", str(NODES), "--node-rank", str(rank), "--dist-init-addr", f"localhost:{dist_port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "engine_double", *command, *node_flags, "--health-seconds", "0"],
            stdout=subprocess.PIPE,
            text=True,
        )

    def status(self, path: str) -> int | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE).status_code
        except httpx.TransportError:
            return None

    def wait_for_output(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        raise AssertionError(f"it ended without saying {text!r}")


@pytest.fixture
def nodes() -> Iterator[list[Node]]:
    dist_port = free_port()
    started = [Node(rank, dist_port) for rank in range(NODES)]
    yield started
    for node in started:
        node.process.kill()
        node.process.wait()


@pytest.mark.timeout(60)
def test_first_node_serves_when_all_are_up_and_others_only_live(nodes: list[Node]) -> None:
    first, *others = nodes
    while first.status("/v1/models") is None:
        assert first.process.poll() is None
    assert first.status("/v1/models") == 200
    for node in others:
        while node.status("/health") is None:
            assert node.process.poll() is None
        assert (node.status("/health"), node.status("/v1/models")) == (200, 404)

    others[0].process.send_signal(signal.SIGTERM)
    assert others[0].process.wait(10) == 0
    assert first.process.wait(10) == 137
    assert others[1].process.wait(10) == 1


@pytest.mark.timeout(60)
def test_first_node_does_not_serve_while_one_is_missing(nodes: list[Node]) -> None:
    first, _, last = nodes
    last.process.kill()
    first.wait_for_output("node 1 of 3")
    assert first.status("/health") is None
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(10) == 0

"""An engine of several nodes: who serves, who waits for whom, and what happens when the first one is gone."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference_server.ports import free_port
from inference_server.supervision import EngineProcess
from patio_testing.deadline import DEADLINE
from patio_testing.kube import until
from patio_testing.local_servers import engine_double, logged

NODES = 3


class Node:
    """One process of the engine."""

    def __init__(self, rank: int, dist_port: int, folder: Path) -> None:
        self.port = free_port()
        flags = ["--nnodes", str(NODES), "--node-rank", str(rank), "--dist-init-addr", f"localhost:{dist_port}"]
        command = ["-m", "sglang.launch_server", *flags, "--health-seconds", "0"]
        self.server = engine_double(f"node-{rank}", folder, self.port, *command)
        self.server.launch()

    @property
    def process(self) -> EngineProcess:
        assert self.server.process is not None
        return self.server.process

    def status(self, path: str) -> int | None:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=DEADLINE).status_code
        except httpx.TransportError:
            return None

    def wait_for_output(self, text: str) -> None:
        until(text, lambda: text in logged(self.server), within=DEADLINE)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[Node]]:
    dist_port = free_port()
    started = [Node(rank, dist_port, tmp_path) for rank in range(NODES)]
    yield started
    for node in started:
        node.server.kill()


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

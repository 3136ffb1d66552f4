"""What the tests of this package share: fake engines, and ways to see which processes of a test are left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_tree import FAKE

from inference_server import CustomServer, InferenceServer
from inference_server.ports import free_port


@pytest.fixture
def make_server(tmp_path: Path) -> Iterator[Callable[..., CustomServer]]:
    """Make servers with the fake engine, and end them. Arguments in capitals are its variables."""
    made: list[InferenceServer] = []

    def make(**arguments: Any) -> CustomServer:
        port = arguments.pop("port", None) or free_port()
        variables = {name: arguments.pop(name) for name in list(arguments) if name.isupper()}
        command = arguments.pop("command", [sys.executable, str(FAKE), "--model", "tiny", "--port", str(port)])
        server = CustomServer(
            "tiny",
            command,
            output_dir=arguments.pop("output_dir", tmp_path / "logs"),
            port=port,
            env_vars={"FAKE_NAME": tmp_path.name, **variables},
            **arguments,
        )
        made.append(server)
        return server

    yield make
    for server in made:
        if server.process is not None:
            server.kill()

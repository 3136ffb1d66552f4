"""Engine doubles, and what serves beside them, as processes of this machine that do not outlive the tests.

However pytest ends, by SIGKILL too, what it started here ends with it: `inference_server` keeps it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from inference_server import CustomServer


def local_server(
    name: str, folder: Path, port: int, arguments: Sequence[str], variables: Mapping[str, str]
) -> CustomServer:
    """Return a server that `arguments` of this interpreter start, not launched; it has these variables and PATH alone.

    Its log files are in `folder`, and their names begin with `name`.
    """
    return CustomServer(
        name,
        [sys.executable, *arguments],
        backend=name,
        output_dir=folder,
        port=port,
        env_mode="clean",
        env_vars={"PATH": os.environ["PATH"], **variables},
    )


def engine_double(name: str, folder: Path, port: int, *arguments: str) -> CustomServer:
    """Return an engine double on loopback, not launched; `arguments` are of its command line."""
    command = ["-m", "engine_double", *arguments, "--host", "127.0.0.1", "--port", str(port)]
    return local_server(name, folder, port, command, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})


def logged(server: CustomServer) -> str:
    """Return what a server has written."""
    return "".join(path.read_text() for path in (server.log_file, server.error_log_file) if path.exists())

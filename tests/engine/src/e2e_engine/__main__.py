"""`python -m e2e_engine`: install the environment, make the model, serve it on this machine.

install       put the locked vLLM into the cache, if it is not there; print its directory
model         make the tiny model and its adapters, if they are not there; print their directory
serve         run the real engine on this machine, on 127.0.0.1, until it is interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from e2e_cluster.errors import ClusterError
from e2e_cluster.places import cache_root
from e2e_cluster.progress import timed
from e2e_engine import environment, launch, model


def main() -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="e2e_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install")
    commands.add_parser("model").add_argument("directory", nargs="?", type=Path, help="default: in the cache")
    commands.add_parser("serve").add_argument("--port", type=int, default=launch.PORT)
    arguments = parser.parse_args()
    try:
        if arguments.command == "install":
            print(environment.install(timed()))
        elif arguments.command == "model":
            print(model.write(arguments.directory or model_directory()))
        else:
            serve(arguments.port)
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def model_directory() -> Path:
    """Where the model of this revision is kept."""
    return cache_root() / "model" / model.REVISION


def serve(port: int) -> None:
    """Become the engine."""
    installed = environment.install(timed())
    models = model.write(model_directory())
    scratch = Path(tempfile.mkdtemp(prefix="vllm-"))
    command = [sys.executable, *launch.arguments(models / "model", host="127.0.0.1", port=port)]
    variables = {"PATH": "/usr/bin:/bin", **launch.variables(installed, scratch)}
    os.execve(sys.executable, command, variables)


if __name__ == "__main__":
    sys.exit(main())

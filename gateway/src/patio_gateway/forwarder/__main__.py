"""`python -m patio_gateway.forwarder`: answers for the engine beside it, with Model Engine's file and options."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from patio_gateway.forwarder.config import MOST_BYTES, Config, ConfigError, read_config
from patio_gateway.forwarder.routes import routes
from patio_gateway.forwarder.server import NoSocketError, Serving, serve
from patio_gateway.logs import set_up_logging

BAD_INPUT = 2
"""What the program ends with when its file or an option cannot be used."""

FAILED = 1
"""What it ends with when its address cannot be listened on."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m patio_gateway.forwarder",
        description="Forwards Model Engine's calls, and plain ones, to the engine on this machine. Ends at SIGTERM or "
        "Ctrl-C, when the requests in flight have ended.",
        epilog="example: python -m patio_gateway.forwarder --config forwarder.yaml "
        "--set forwarder.sync.healthcheck_route=/health",
    )
    found.add_argument("--config", type=Path, required=True, metavar="FILE", help="the config, in YAML or JSON")
    found.add_argument(
        "--num-workers",
        type=int,
        default=1,
        metavar="N",
        help="processes, at most one for each CPU; they share forwarder.max_concurrency (default: %(default)s)",
    )
    found.add_argument("--host", metavar="IP", help="IP address to listen on (default: all of the machine)")
    found.add_argument("--port", type=int, default=5000, help="port to listen on (default: %(default)s)")
    found.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY.PATH=VALUE",
        help="a value in place of the file's, such as forwarder.sync.user_port=8000; repeat it for each value",
    )
    found.add_argument(
        "--graceful-timeout",
        type=int,
        default=600,
        metavar="SECONDS",
        help="how long requests in flight may take when the forwarder ends (default: %(default)s)",
    )
    return found


def _config(path: Path, options: Sequence[str]) -> Config:
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    config = read_config(data, str(path), options, os.environ)
    routes(config)
    return config


def _serving(arguments: argparse.Namespace) -> Serving:
    host = None if arguments.host is None else arguments.host.removeprefix("[").removesuffix("]")
    if host is not None:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ConfigError(f"--host {arguments.host}: expected an IP address, such as 0.0.0.0.") from None
    if not 0 < arguments.port < 65536:
        raise ConfigError(f"--port {arguments.port}: expected 1 to 65535.")
    if not 0 < arguments.num_workers <= 10_000:
        raise ConfigError(f"--num-workers {arguments.num_workers}: expected 1 to 10000.")
    if not 0 <= arguments.graceful_timeout <= 86400:
        raise ConfigError(f"--graceful-timeout {arguments.graceful_timeout}: expected 0 to 86400.")
    return Serving(host, arguments.port, arguments.num_workers, arguments.graceful_timeout)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return what it ends with."""
    arguments = parser().parse_args(argv)
    set_up_logging()
    try:
        config, serving = _config(arguments.config, arguments.set), _serving(arguments)
    except ConfigError as error:
        sys.stderr.write(f"forwarder: {error}\n")
        return BAD_INPUT
    try:
        serve(config, serving)
    except NoSocketError as error:
        sys.stderr.write(f"forwarder: {error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

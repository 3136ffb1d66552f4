"""`python -m patio_gateway`: the gateway before engines at URLs (`--engine`), or in a cluster (`--kubernetes`)."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from patio_gateway.app import Settings, run
from patio_gateway.control.bootstrap import Listening
from patio_gateway.control.groups import most_own_groups
from patio_gateway.envoy.process import EnvoyFailedError
from patio_gateway.envoy.program import EnvoyMissingError, find_envoy
from patio_gateway.logs import set_up_logging
from patio_gateway.snapshot import Client
from patio_gateway.sources.keys import KeyFileError, read_key_file
from patio_gateway.sources.kubernetes.options import KEYS_LABEL, Cluster, NoClusterError, cluster_of
from patio_gateway.sources.static import Engine, EngineUrlError, StaticSource, parse_engine

log = logging.getLogger(__name__)

BAD_INPUT = 2
"""What the program ends with when its arguments cannot be used."""

FAILED = 1
"""What it ends with when Envoy did not start, or ended."""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    found = argparse.ArgumentParser(
        prog="python -m patio_gateway",
        description="Serves engines under OpenAI's API at one address: each request goes to an engine that has its "
        "model or adapter. Ends at SIGTERM or Ctrl-C, when the requests in flight have ended.",
        epilog="example: python -m patio_gateway --engine http://127.0.0.1:8000 --engine http://127.0.0.1:8001",
    )
    source = found.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--engine",
        action="append",
        metavar="URL[=MODEL]",
        help="an engine, such as http://127.0.0.1:8000; with =MODEL the model is known before the engine answers. "
        "Repeat it for each engine; those with the same model share its requests",
    )
    source.add_argument(
        "--kubernetes",
        action="store_true",
        help="serve the ModelEndpoints of the cluster that this pod, or the kubeconfig, is of. Needs the variables "
        "POD_NAME and POD_NAMESPACE, and --keys-from-secrets or --open",
    )
    found.add_argument(
        "--namespaces",
        metavar="NAMES",
        help="with --kubernetes: whose ModelEndpoints are served, such as team-a,team-b (default: of all)",
    )
    keys = found.add_mutually_exclusive_group()
    keys.add_argument(
        "--keys-from-secrets",
        action="store_true",
        help=f"with --kubernetes: requests need a key, and keys are in the Secrets with the label {KEYS_LABEL} of the "
        "gateway's own namespace",
    )
    keys.add_argument("--open", action="store_true", help="with --kubernetes: no request needs a key")
    found.add_argument("--host", default="127.0.0.1", help="IP address to listen on (default: %(default)s)")
    found.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    found.add_argument(
        "--key-file",
        type=Path,
        metavar="FILE",
        help="YAML list of keys, readable by its owner alone: name, key, and if wanted endpoints, requestsPerMinute. "
        "Without it no request needs a key",
    )
    found.add_argument(
        "--folder",
        type=Path,
        help="where Envoy's files and sockets are, for this user alone. A gateway that starts with the folder of one "
        "that was killed takes its Envoy over (default: a folder for this port in the folder of temporary files)",
    )
    found.add_argument("--envoy", metavar="PROGRAM", help="Envoy 1.40 (default: that of the package, or in PATH)")
    found.add_argument(
        "--threads", type=int, default=min(os.cpu_count() or 1, 4), help="of Envoy (default: %(default)s)"
    )
    found.add_argument(
        "--most-body",
        type=int,
        default=Listening.most_body,
        metavar="BYTES",
        help="a longer body of a request is answered 413 (default: %(default)s)",
    )
    found.add_argument(
        "--most-heap",
        type=int,
        default=Listening.most_heap,
        metavar="BYTES",
        help="memory of Envoy above which it answers new requests 503 (default: %(default)s)",
    )
    found.add_argument(
        "--access-log", default="-", metavar="FILE", help="JSON lines, one a request (default: standard output)"
    )
    found.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="where Prometheus reads /metrics (default: nowhere)"
    )
    found.add_argument(
        "--drain",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how long requests in flight may take when the gateway ends (default: %(default)s)",
    )
    return found


def _cluster(arguments: argparse.Namespace) -> Cluster | None:
    """Return what `--kubernetes` asks for; None without it. Raise `ValueError`."""
    if not arguments.kubernetes:
        for option in ("namespaces", "keys_from_secrets", "open"):
            if getattr(arguments, option):
                raise ValueError(f"--{option.replace('_', '-')} is for --kubernetes.")
        return None
    if arguments.key_file is not None:
        raise ValueError("--key-file is for --engine: with --kubernetes keys are in Secrets, --keys-from-secrets.")
    return cluster_of(arguments.namespaces, arguments.keys_from_secrets, arguments.open, os.environ)


async def _serve_cluster(settings: Settings, cluster: Cluster) -> None:
    # The client of Kubernetes takes a second and 25 MB, which engines at URLs do not need.
    from patio_gateway.demand_reports.writer import Pod, reporting
    from patio_gateway.sources.kubernetes.source import connected

    async with (
        connected(cluster.namespaces, cluster.namespace if cluster.closed else None) as source,
        reporting(Pod(cluster.namespace, cluster.pod)) as reporter,
    ):
        await run(settings, source, reporter)


def _engines(texts: Sequence[str]) -> list[Engine]:
    engines = [parse_engine(text) for text in texts]
    places = [(engine.host, engine.port) for engine in engines]
    for place in places:
        if places.count(place) > 1:
            raise EngineUrlError(f"--engine names {place[0]}:{place[1]} twice.")
    return engines


def _settings(arguments: argparse.Namespace) -> Settings:
    folder = arguments.folder or Path(tempfile.gettempdir(), f"patio-gateway-{os.getuid()}-{arguments.port}")
    # The kernel's limit of a socket's path is 107 bytes.
    if len(os.fsencode(folder.absolute())) > 90:
        raise ValueError(f"--folder {folder}: the path is longer than 90 bytes, too long for a socket in it.")
    if not 0 < arguments.port < 65536:
        raise ValueError(f"--port {arguments.port}: expected 1 to 65535.")
    if arguments.metrics_port is not None and not 0 < arguments.metrics_port < 65536:
        raise ValueError(f"--metrics-port {arguments.metrics_port}: expected 1 to 65535.")
    if not 0 < arguments.threads <= 256:
        raise ValueError(f"--threads {arguments.threads}: expected 1 to 256.")
    # Envoy holds a MiB of each connection anyway.
    if not 1024**2 <= arguments.most_body <= 1024**3:
        raise ValueError(f"--most-body {arguments.most_body}: expected {1024**2} to {1024**3}.")
    if not 64 * 1024**2 <= arguments.most_heap <= 1024**4:
        raise ValueError(f"--most-heap {arguments.most_heap}: expected {64 * 1024**2} to {1024**4}.")
    try:
        ipaddress.ip_address(arguments.host)
    except ValueError:
        raise ValueError(f"--host {arguments.host}: expected an IP address, such as 0.0.0.0.") from None
    if not 0 <= arguments.drain <= 86400:
        raise ValueError(f"--drain {arguments.drain}: expected 0 to 86400.")
    return Settings(
        listening=Listening(
            listen=(arguments.host, arguments.port),
            folder=str(folder.absolute()),
            metrics=(arguments.host, arguments.metrics_port) if arguments.metrics_port else None,
            access_log=arguments.access_log,
            most_body=arguments.most_body,
            most_heap=arguments.most_heap,
            most_own_groups=most_own_groups(_inotify_instances()),
        ),
        program=find_envoy(arguments.envoy),
        threads=arguments.threads,
        drain_seconds=arguments.drain,
    )


def _inotify_instances() -> int:
    try:
        return int(Path("/proc/sys/fs/inotify/max_user_instances").read_text())
    except (OSError, ValueError):
        return 128


def _clients(path: Path | None) -> Callable[[], tuple[Client, ...] | None]:
    """Return what reads the keys. A file that cannot be read any more leaves the keys as they are."""
    if path is None:
        return lambda: None
    last = read_key_file(path)
    reported: str | None = None

    def read() -> tuple[Client, ...]:
        nonlocal last, reported
        try:
            last = read_key_file(path)
            reported = None
        except KeyFileError as error:
            if str(error) != reported:
                reported = str(error)
                log.error("keys_kept error=%s", json.dumps(reported))
        return last

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return what it ends with."""
    arguments = parser().parse_args(argv)
    set_up_logging()
    try:
        cluster = _cluster(arguments)
        engines = _engines(arguments.engine or ())
        settings = _settings(arguments)
        clients = _clients(arguments.key_file)
    except (ValueError, KeyFileError, EnvoyMissingError) as error:
        sys.stderr.write(f"patio_gateway: {error}\n")
        return BAD_INPUT
    try:
        if cluster is not None:
            asyncio.run(_serve_cluster(settings, cluster))
        else:
            asyncio.run(run(settings, StaticSource(engines, clients)))
    except (EnvoyFailedError, NoClusterError, OSError) as error:
        sys.stderr.write(f"patio_gateway: {error}\n")
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())

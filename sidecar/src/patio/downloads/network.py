"""The network as a worker may use it, set up once for all libraries before the first of them is imported.

No name is resolved to an address of the machine itself (`addresses`); one bundle of certificates counts for all
sources, whichever variable names it; and networks in NO_PROXY are honoured. Only the worker calls this: it changes the
whole process.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Any

from patio.downloads.addresses import host_of, is_in, is_never_asked
from patio.downloads.errors import DownloadError
from patio.downloads.messages import Job
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import SourceKind

BUNDLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""Variables that name certificates; the first that is set and there counts for all sources."""

_resolve = socket.getaddrinfo


def prepare(job: Job) -> None:
    """Make the process ready for a job."""
    use_one_bundle(os.environ)
    for key in ("endpoint", "hf_endpoint"):
        if key in job.config:
            bypass_proxies(os.environ, host_of(job.config[key]))
    # The agents that give a pod its role have such addresses; the cluster names them, never an order.
    agents = _agents(os.environ) if job.source.kind in (SourceKind.S3, SourceKind.OBS) else frozenset[str]()

    def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
        entries = _resolve(host, *args, **kwargs)
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in agents:
            reject(name, [str(entry[4][0]) for entry in entries])
        return entries

    socket.getaddrinfo = resolve


def reject(host: str, addresses: list[str]) -> None:
    """Raise `DownloadError` for a host that is, or stands for, an address of the machine itself."""
    if is_never_asked(host) or any(map(is_never_asked, addresses)):
        message = f"{host} is an address of the node or its cloud's metadata. The sidecar never connects to it."
        raise DownloadError(DownloadReason.INVALID, message)


def use_one_bundle(environ: MutableMapping[str, str]) -> None:
    """Have every library use the bundle of certificates that one of the variables names."""
    named = next((environ[name] for name in BUNDLES if environ.get(name) and os.path.exists(environ[name])), None)
    for name in BUNDLES:
        environ.pop(name, None)
    if named is None:
        return
    if os.path.isdir(named):
        environ["SSL_CERT_DIR"] = named
        return
    for name in BUNDLES:
        environ[name] = named


def bypass_proxies(environ: MutableMapping[str, str], host: str) -> None:
    """Add a host to NO_PROXY if it is an address in a network that stands there."""
    excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if is_in(host, excluded):
        environ["no_proxy"] = environ["NO_PROXY"] = f"{excluded},{host}"


def _agents(environ: MutableMapping[str, str]) -> frozenset[str]:
    hosts = set()
    if full := environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        hosts.add(host_of(full))
    if environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"):
        hosts.add("169.254.170.2")
    return frozenset(hosts)

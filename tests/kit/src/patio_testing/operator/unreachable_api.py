"""A client of an API server that is not there."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubernetes.aio import client

from patio_kube.client import KubeClient


@asynccontextmanager
async def unreachable_api() -> AsyncIterator[KubeClient]:
    """Yield a client whose requests find nobody who listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = client.Configuration(host=f"http://127.0.0.1:{port}")
    cluster = KubeClient(client.ApiClient(configuration), "patio-operator")
    yield cluster
    await cluster.close()

"""A client of an API server that is not there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kubernetes.aio import client

from inference_server.ports import free_port
from patio_kube.client import KubeClient


@asynccontextmanager
async def unreachable_api() -> AsyncIterator[KubeClient]:
    """Yield a client whose requests find nobody who listens."""
    configuration = client.Configuration(host=f"http://127.0.0.1:{free_port()}")
    cluster = KubeClient(client.ApiClient(configuration), "patio-operator")
    yield cluster
    await cluster.close()

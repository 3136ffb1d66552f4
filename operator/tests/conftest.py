"""Fixtures that several of the operator's tests share."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
from kubernetes.aio import client

from patio_operator.kube.client import KubeClient


@pytest.fixture
async def unreachable() -> AsyncIterator[KubeClient]:
    """An API server that is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    cluster = KubeClient(client.ApiClient(client.Configuration(host=f"http://127.0.0.1:{port}")))
    yield cluster
    await cluster.close()

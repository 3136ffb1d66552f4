"""Fixtures that several tests of this folder share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from patio_kube.client import KubeClient
from patio_testing.operator.unreachable_api import unreachable_api


@pytest.fixture
async def unreachable() -> AsyncIterator[KubeClient]:
    """An API server that is not there."""
    async with unreachable_api() as cluster:
        yield cluster

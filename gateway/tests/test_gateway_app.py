"""What carries snapshots to Envoy says whether the gateway is ready."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from patio_gateway import app
from patio_gateway.snapshot import Model, Snapshot
from patio_testing.model_gateway import running_gateway, until

SNAPSHOT = Snapshot(models=(Model("a/m", ("m",)),))


async def test_gateway_is_ready_when_envoy_has_a_snapshot() -> None:
    async with running_gateway() as gateway:
        assert not gateway.knowledge.ready
        await gateway.publish(SNAPSHOT)
        assert gateway.knowledge.ready


async def test_envoy_that_takes_a_snapshot_late_makes_it_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "TAKEN_SECONDS", 0.0)
    monkeypatch.setattr(app, "LATE_SECONDS", 0.05)
    async with running_gateway() as gateway:
        watching = asyncio.create_task(gateway.control.watch())
        await gateway.publish(SNAPSHOT)
        assert gateway.knowledge.snapshot == SNAPSHOT
        await until(lambda: gateway.knowledge.ready, "the gateway is ready")
        # What comes later and late changes nothing of that.
        await gateway.publish(replace(SNAPSHOT, closed=False))
        assert gateway.knowledge.ready
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_cause_of_a_group_of_failures_is_what_is_raised() -> None:
    async def fail() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        await app._until(asyncio.Event(), fail())

"""Runs kopf beside the operator's other tasks: its handlers, and the end of both together.

The last step before the handlers: `app` starts it, and ends it after everything else. kopf takes the process's signals
when it starts, and would end itself first and every other task five seconds later, admissions included; so the signals
are taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import kopf

from patio_operator.handlers import login, profiles


async def run(
    pod_name: str,
    wake_profile: Callable[[str], None],
    take_signals: Callable[[], None],
    stop: asyncio.Event,
    ends: asyncio.Event,
) -> None:
    """Run until `ends` is set.

    Args:
        pod_name: name of this replica.
        wake_profile: takes the name of a profile that has changed.
        take_signals: has signals handled as before, once kopf has started.
        stop: is set when kopf ends by itself: nothing is worth doing without it.
        ends: ends kopf.

    """
    registry = kopf.OperatorRegistry()
    login.register(registry)
    profiles.register(registry, wake_profile)
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # A quiet watch is closed by the API server after a while; the client must notice a dead connection by itself.
    settings.watching.server_timeout = 240
    settings.watching.client_timeout = 300
    settings.networking.connect_timeout = 10
    # Without one kopf looks the user's name up, and a container's user has none. Its type is private to kopf.
    identity: Any = pod_name

    @kopf.on.cleanup(registry=registry)
    async def stopping(**_: Any) -> None:
        stop.set()

    started = asyncio.Event()

    async def take_signals_back() -> None:
        await started.wait()
        take_signals()

    async with asyncio.TaskGroup() as tasks:
        signals = tasks.create_task(take_signals_back())
        # No peering: a standby watches as the leader does, so that it knows what to work on when it leads.
        await kopf.operator(
            registry=registry,
            settings=settings,
            standalone=True,
            clusterwide=True,
            identity=identity,
            stop_flag=ends,
            ready_flag=started,
        )
        signals.cancel()

"""Events that wait to be recorded, at an API server in memory."""

from __future__ import annotations

import asyncio

import pytest

from patio_kube import pending_events
from patio_kube.pending_events import MOST_WAITING, PendingEvents
from patio_kube.resources import LORA_ADAPTER
from patio_kube.unreadable_objects import UnreadableObjects
from patio_testing.operator.memory_api import MemoryApi, connected, serving
from patio_testing.operator.waiting import until


def metadata(name: str) -> dict[str, str]:
    return {"name": name, "namespace": "team", "uid": f"uid-{name}", "other": "field"}


async def recorded(api: MemoryApi, events: PendingEvents, count: int) -> list[tuple[str, str, str]]:
    """Run until so many events are there; return object, reason and message of each."""
    task = asyncio.create_task(events.run())

    def found() -> list[tuple[str, str, str]]:
        bodies = [body for path, body in api.objects.items() if "/events/" in path]
        return [(body["involvedObject"]["name"], body["reason"], body["message"]) for body in bodies]

    await until("the events", lambda: len(found()) == count, found)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return sorted(found())


async def test_object_has_one_event_of_a_reason_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pending_events, "EVENT_SECONDS", 0.0)
    api = MemoryApi()
    async with serving(api) as address, connected(address) as cluster:
        events = PendingEvents(cluster)
        for message in ("Before.", "After."):
            events.note(LORA_ADAPTER, metadata("a"), "NameTaken", message)
        events.note(LORA_ADAPTER, metadata("a"), "Other", "Another reason.")
        UnreadableObjects(events, "gateway").note(LORA_ADAPTER, {"metadata": metadata("b")}, "odd")
        assert await recorded(api, events, 3) == [
            ("a", "NameTaken", "After."),
            ("a", "Other", "Another reason."),
            ("b", "Unreadable", "The gateway cannot read this object and ignores it: odd"),
        ]


async def test_events_past_the_limit_are_left_out() -> None:
    api = MemoryApi()
    async with serving(api) as address, connected(address) as cluster:
        events = PendingEvents(cluster)
        for number in range(10 * MOST_WAITING):
            events.note(LORA_ADAPTER, metadata(f"a{number}"), "NameTaken", "Taken.")
        assert len(events) == MOST_WAITING
        # One that waits already takes what is newer.
        events.note(LORA_ADAPTER, metadata("a0"), "NameTaken", "Newer.")
        assert await recorded(api, events, 1) == [("a0", "NameTaken", "Newer.")]

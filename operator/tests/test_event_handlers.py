"""Which change wakes what; and that text of users wakes nothing that does not exist."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from patio_api import labels
from patio_kube.pending_events import MOST_WAITING, PendingEvents
from patio_kube.resources import LORA_ADAPTER
from patio_kube.runtime.workqueue import Key, WorkQueue
from patio_kube.unreadable_objects import UnreadableObjects
from patio_operator.caches import Caches
from patio_operator.groups import event_handlers as of_groups
from patio_operator.loraadapters import event_handlers as of_adapters
from patio_operator.profiles import event_handlers as of_profiles
from patio_testing.operator.memory_api import GROUPS, PODS, PROFILES, MemoryApi, connected, group, profile, serving
from patio_testing.operator.waiting import until

Object = dict[str, Any]
Woken = dict[str, list[Key]]


@asynccontextmanager
async def listening(api: MemoryApi) -> AsyncIterator[tuple[Caches, Woken]]:
    woken: Woken = {"adapters": [], "groups": [], "profiles": []}

    async def work(name: str, key: Key) -> None:
        woken[name].append(key)

    async with serving(api) as address, connected(address) as cluster:
        known = Caches(cluster)
        adapters, groups, profiles = queues = [WorkQueue(name) for name in woken]
        of_adapters.register(adapters, known.pods, known.adapters, known.services)
        of_groups.register(groups, known.groups, (known.group_pods, known.stateful_sets), known.profiles, lambda _: [])
        of_profiles.register(profiles, known.pods, known.profiles)
        running = (queue.run(partial(work, name)) for name, queue in zip(woken, queues, strict=True))
        tasks = [asyncio.create_task(coroutine) for coroutine in (*known.watches(), *running)]
        await until("everything is known", lambda: known.complete)
        await until("everything is done", lambda: not any(len(queue) for queue in queues))
        for keys in woken.values():
            keys.clear()
        yield known, woken
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def injected(name: str, *profiles: str, revision: str = "1", **metadata: Any) -> Object:
    injected_revisions = dict.fromkeys(profiles, revision)
    metadata = {
        "name": name,
        "labels": {labels.INJECTED: "true"},
        "annotations": {labels.INJECTED: json.dumps(injected_revisions)},
    } | metadata
    return {"metadata": metadata, "spec": {}, "status": {"phase": "Running"}}


async def test_twenty_thousand_names_in_an_annotation_wake_no_profile() -> None:
    api = MemoryApi()
    api.put(PROFILES, profile("patio"))
    async with listening(api) as (_, woken):
        api.put(PODS, injected("many", *(f"p{number}" for number in range(20_000))))
        api.put(PODS, injected("few", "patio", "unknown"))
        await until("woken", lambda: woken["profiles"])
        assert woken["profiles"] == [("patio",)]
        assert set(woken["adapters"]) == {("team",)}


async def test_pod_wakes_its_profiles_only_when_that_changes() -> None:
    api = MemoryApi()
    api.put(PROFILES, profile("patio"))
    api.put(PODS, injected("p", "patio"))
    async with listening(api) as (_, woken):
        api.put(PODS, injected("p", "patio", labels={labels.INJECTED: "true", "other": "label"}))
        await until("the namespace is planned", lambda: woken["adapters"])
        assert woken["profiles"] == []
        api.put(PODS, injected("p", "patio", revision="2"))
        await until("another revision", lambda: woken["profiles"] == [("patio",)])
        api.put(PODS, injected("p", "patio", revision="2") | {"status": {"phase": "Succeeded"}})
        await until("it has ended", lambda: len(woken["profiles"]) == 2)


async def test_groups_status_does_not_wake_it() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    async with listening(api) as (_, woken):
        api.put(GROUPS, api.objects[f"{GROUPS}/g"] | {"status": {"observedGeneration": 1}})
        api.put(GROUPS, group("last"))
        await until("the last one", lambda: ("team", "last") in woken["groups"])
        assert ("team", "g") not in woken["groups"]
        changed = api.objects[f"{GROUPS}/g"]
        changed["metadata"]["annotations"] = {labels.HAND_OVER: "true"}
        api.put(GROUPS, changed)
        await until("an annotation does", lambda: ("team", "g") in woken["groups"])


async def test_new_leader_finds_all_keys_in_the_caches() -> None:
    api = MemoryApi()
    api.put(GROUPS, group("g"))
    api.put(PROFILES, profile("patio"))
    api.put(PODS, injected("p", "patio"))
    async with listening(api) as (known, _):
        assert list(of_groups.existing_keys(known.groups)) == [("team", "g")]
        assert list(of_profiles.existing_keys(known.profiles)) == [("patio",)]
        assert list(of_adapters.existing_keys(known.pods, known.adapters, known.services)) == [("team",)]


async def test_owners_of_unreadable_objects_get_events_a_few_at_a_time() -> None:
    api = MemoryApi()
    async with serving(api) as address, connected(address) as cluster:
        events = PendingEvents(cluster)
        objects = UnreadableObjects(events, "operator")
        for number in range(10 * MOST_WAITING):
            objects.note(LORA_ADAPTER, {"metadata": {"name": f"a{number}", "namespace": "team", "uid": "u"}}, "odd")
        assert len(events) == MOST_WAITING
        task = asyncio.create_task(events.run())
        await until("the first is told", lambda: any("/events/a0." in path for path in api.objects))
        task.cancel()
        await asyncio.wait((task,))
        assert len(events) >= MOST_WAITING - 2

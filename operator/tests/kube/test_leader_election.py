"""The Lease beside a thousand groups and an API server that takes its time: it is never lost, nor held up."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from patio_operator.caches import Caches
from patio_operator.groups.event_handlers import existing_keys
from patio_operator.groups.reconciler import GroupReconciler
from patio_operator.kube import lease_rules
from patio_operator.kube.leader_election import LeaderElector
from patio_operator.runtime.workqueue import WORKERS, WorkQueue
from patio_testing.operator.memory_api import GROUPS, MemoryApi, connected, group, serving
from patio_testing.operator.waiting import until

GROUPS_THERE = 1000
LEASE = "/apis/coordination.k8s.io/v1/namespaces/patio-system/leases/patio-operator"


async def test_thousand_groups_do_not_cost_the_lease() -> None:
    api = MemoryApi()
    api.latency, api.fast = 0.3, "/leases"
    for number in range(GROUPS_THERE):
        api.put(GROUPS, group(f"g{number}"))
    changes: list[bool] = []
    async with serving(api) as address, connected(address) as cluster, connected(address) as own:
        known = Caches(cluster)
        reconciler = GroupReconciler(cluster, known.groups, known.profiles, lambda: False, time.monotonic)
        queue = WorkQueue("group", lambda: existing_keys(known.groups))
        watches = [asyncio.create_task(watch) for watch in known.watches()]
        await until("the groups are known", lambda: len(known.groups.object_keys()) == GROUPS_THERE)
        elector = LeaderElector(own, "patio-system", "patio-operator", "one", changes.append)
        task = asyncio.create_task(elector.run(partial(queue.run, reconciler.reconcile)))
        renewals: set[str] = set()

        def renewed() -> bool:
            if LEASE in api.objects:
                renewals.add(api.objects[LEASE]["spec"]["renewTime"])
            return len(renewals) > lease_rules.DURATION / lease_rules.RENEW_EVERY + 1

        # longer than a Lease lasts: a term that is lost would have ended by then
        await until("renewed again and again", renewed, lambda: f"{renewals}, {api.requests}")
        assert changes == [True]
        assert api.requests["GET rolebasedgroups"] > WORKERS, "groups were worked on meanwhile"
        assert api.most_at_once <= WORKERS * 6 + 10, api.most_at_once
        for running in (task, *watches):
            running.cancel()
        await asyncio.gather(task, *watches, return_exceptions=True)


async def test_failed_renewals_and_transitions_of_the_lease_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_rules, "RENEW_EVERY", 0.01)
    api = MemoryApi()
    failures: list[None] = []
    async with serving(api) as address, connected(address) as own:
        elector = LeaderElector(own, "patio-system", "patio-operator", "one", lambda leading: None)
        elector.on_renewal_failure = lambda: failures.append(None)
        assert elector.transitions is None

        async def act() -> None:
            await asyncio.Event().wait()

        task = asyncio.create_task(elector.run(act))
        await until("it leads", lambda: elector.leading)
        assert (elector.transitions, failures) == (0, [])
        api.refused[LEASE] = 500
        await until("renewals fail", lambda: len(failures) > 1)
        del api.refused[LEASE]
        lease = api.objects[LEASE]
        taken = lease["spec"] | {"holderIdentity": "two", "leaseTransitions": 4}
        api.put(LEASE.rsplit("/", 1)[0], lease | {"spec": taken})
        await until("another leads", lambda: not elector.leading)
        assert elector.transitions == 4
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

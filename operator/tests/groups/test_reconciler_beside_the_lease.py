"""A thousand groups and an API server that takes its time: the Lease is never lost, nor held up."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from patio_kube import lease_rules
from patio_kube.leader_election import LeaderElector
from patio_kube.runtime.workqueue import WORKERS, WorkQueue
from patio_operator.caches import Caches
from patio_operator.groups.event_handlers import existing_keys
from patio_operator.groups.reconciler import GroupReconciler
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

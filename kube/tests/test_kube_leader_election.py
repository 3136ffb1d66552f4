"""What a replica does with the Lease, at an API server in memory."""

from __future__ import annotations

import asyncio

import pytest

from patio_kube import lease_rules
from patio_kube.leader_election import LeaderElector
from patio_testing.operator.memory_api import MemoryApi, connected, serving
from patio_testing.operator.waiting import until

LEASE = "/apis/coordination.k8s.io/v1/namespaces/patio-system/leases/patio-operator"


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

"""The simulated replicas of the operator have the operator's metrics, and only the leader reconciles."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from patio_testing.operator_metrics_simulator import KINDS, OperatorReplica


def passes(replica: OperatorReplica) -> float:
    families = text_string_to_metric_families(generate_latest(replica.metrics.registry).decode())
    samples = [sample for family in families for sample in family.samples]
    return sum(sample.value for sample in samples if sample.name == "patio_operator_reconciles_total")


def test_only_the_leader_reconciles() -> None:
    leader, standby = OperatorReplica(0), OperatorReplica(1)
    for _ in range(60):
        leader.advance(leads=True)
        standby.advance(leads=False)
    assert passes(standby) == 0
    expected = 60 * sum(rate for rate, _ in KINDS.values())
    assert expected / 2 < passes(leader) < expected * 2


def test_replica_says_whether_it_leads_now() -> None:
    replica = OperatorReplica(0)
    for leads in (True, False):
        replica.advance(leads=leads)
        assert replica.metrics.registry.get_sample_value("patio_operator_leader") == leads


def test_same_seed_gives_the_same_numbers() -> None:
    first, second = OperatorReplica(3), OperatorReplica(3)
    for replica in (first, second):
        for _ in range(30):
            replica.advance(leads=True)
    assert passes(first) == passes(second) > 0

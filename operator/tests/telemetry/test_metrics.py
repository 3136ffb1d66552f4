"""The page of metrics: complete from the start, bounded, and never written in one long slice."""

from __future__ import annotations

import re
import time

import pytest
from prometheus_client.parser import text_string_to_metric_families

from patio_kube.runtime import workqueue
from patio_operator.telemetry import codes, exposition
from patio_operator.telemetry.metrics import Metrics
from patio_operator.telemetry.object_gauges import ObjectState

Samples = dict[str, dict[tuple[str, ...], float]]
LONGEST_SLICE = 0.05


async def scraped(metrics: Metrics) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families((await exposition.page(metrics)).decode()):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


async def test_known_label_sets_begin_with_zero() -> None:
    page = await scraped(Metrics())
    for name, labels in (
        ("patio_operator_admissions_total", ("error", "timeout", "pods")),
        ("patio_operator_admissions_total", ("rejected", "name_taken", "loraadapters")),
        ("patio_operator_admission_warnings_total", ("conversion",)),
        ("patio_operator_reconciles_total", ("LoraAdapter", "error")),
        ("patio_operator_reconcile_duration_seconds_count", ("RoleBasedGroup",)),
        ("patio_operator_api_requests_total", ("none", "list")),
        ("patio_operator_api_requests_total", ("201", "create")),
        ("patio_operator_sidecar_calls_total", ("load", "200")),
        ("patio_operator_lease_renew_failures_total", ()),
    ):
        assert page[name][labels] == 0


async def test_every_family_has_help_and_own_names() -> None:
    metrics = Metrics()
    for family in text_string_to_metric_families((await exposition.page(metrics)).decode()):
        assert family.documentation, family.name
        assert re.match(r"patio_operator_|process_", family.name)
        assert not family.name.startswith("patio_operator_") or family.type != "unknown"


async def test_what_counts_shows_on_the_page() -> None:
    metrics = Metrics()
    metrics.built("1.2.3")
    metrics.leads(True)
    metrics.reviewed("pods", "rejected", "profile_not_found", 2, 0.01)
    metrics.requested("get", 404, 0.01)
    metrics.requested("get", 0, 0.01)
    metrics.called("load", 599, 0.01)
    metrics.called("watch", 200, 10.0)
    metrics.certificate_expiry.read = lambda: {"serving": 1.0, "ca": 2.0}
    metrics.signing_key_created.read = lambda: {"": 3.0}
    metrics.lease_transitions.read = lambda: {"": 4}
    metrics.queues.register("LoraAdapter", workqueue.WorkQueue("adapters"))
    metrics.groups.put("team", "g", ObjectState("True", "AllRolesReady", (2, 2)))
    page = await scraped(metrics)
    assert page["patio_operator_build_info"] == {("1.2.3",): 1}
    assert page["patio_operator_leader"] == {(): 1}
    assert page["patio_operator_admissions_total"]["rejected", "profile_not_found", "pods"] == 1
    assert page["patio_operator_admission_warnings_total"]["pods",] == 2
    assert page["patio_operator_api_requests_total"]["404", "get"] == 1
    assert page["patio_operator_api_requests_total"]["none", "get"] == 1
    assert page["patio_operator_sidecar_calls_total"]["load", "5xx"] == 1
    assert ("watch",) not in page["patio_operator_sidecar_call_duration_seconds_count"]
    assert page["patio_operator_certificate_expiry_timestamp_seconds"] == {("serving",): 1, ("ca",): 2}
    assert page["patio_operator_signing_key_created_timestamp_seconds"] == {(): 3}
    assert page["patio_operator_lease_transitions_total"] == {(): 4}
    assert page["patio_operator_queue_oldest_seconds"] == {("LoraAdapter",): 0}
    assert page["patio_operator_rolebasedgroup_roles"] == {("team", "g"): 2}
    assert page["process_resident_memory_bytes"][()] > 0


async def test_standby_shows_no_objects() -> None:
    metrics = Metrics()
    metrics.adapters.put("team", "a", ObjectState("True", "Loaded", (1, 1, 1, 0)))
    assert "patio_operator_loraadapters" not in await scraped(metrics)
    metrics.leads(True)
    assert (await scraped(metrics))["patio_operator_loraadapters"] == {("True", "Loaded"): 1}


@pytest.mark.parametrize(
    ("status", "label"),
    [(200, "200"), (404, "404"), (418, "4xx"), (599, "5xx"), (0, "none"), (99, "none"), (7000, "none")],
)
def test_codes_are_common_ones_or_classes(status: int, label: str) -> None:
    assert codes.label(status) == label


async def test_page_of_a_large_fleet_is_written_in_short_slices() -> None:
    metrics = Metrics()
    metrics.leads(True)
    for number in range(2000):
        metrics.adapters.put(f"team-{number % 50}", f"a-{number}", ObjectState("True", "Loaded", (50, 50, 50, 0)))
        metrics.groups.put(f"team-{number % 50}", f"g-{number}", ObjectState("True", "AllRolesReady", (3, 3)))
    longest = []
    for _ in range(2):
        steps = exposition._parts(metrics)
        slices = []
        while True:
            # CPU of this thread: a busy machine is not the page's doing.
            began = time.thread_time()
            try:
                next(steps)
            except StopIteration as end:
                text: bytes = end.value
                slices.append(time.thread_time() - began)
                break
            slices.append(time.thread_time() - began)
        longest.append(max(slices))
    assert text.count(b"\npatio_operator_loraadapter_ready_pods{") == 2000
    assert max(longest) < LONGEST_SLICE, longest

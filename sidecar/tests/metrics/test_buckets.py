"""The table of bounds that both engines have is what the recordings of both have, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from patio.metrics.buckets import SHARED_BOUNDS
from patio.metrics.mappings import HISTOGRAM, SOURCES, STANDARD
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind

FILES = {EngineKind.VLLM: "vllm/metrics-0.32.0.txt", EngineKind.SGLANG: "sglang/metrics_busy.txt"}


def bounds(text: bytes, engine: EngineKind) -> dict[str, set[float]]:
    """Return the bounds of each standard histogram that is made of a text."""
    found: dict[str, set[float]] = {}
    added = rewrite(text, compile_rules(engine, ("patio",))).text.removeprefix(text)
    for family in text_string_to_metric_families(added.decode()):
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                found.setdefault(family.name.removeprefix("patio:"), set()).add(float(sample.labels["le"]))
    return found


def test_shared_bounds_are_those_of_the_recordings_of_both(recordings: Path) -> None:
    each = [bounds((recordings / file).read_bytes(), engine) for engine, file in FILES.items()]
    common = {name: each[0][name] & each[1][name] - {math.inf} for name in each[0].keys() & each[1].keys()}
    assert {name: set(shared) for name, shared in SHARED_BOUNDS.items()} == common
    assert all(list(shared) == sorted(shared) for shared in SHARED_BOUNDS.values())


def test_every_histogram_that_both_engines_have_is_in_the_table() -> None:
    histograms = {family.name for family in STANDARD if family.type == HISTOGRAM}
    assert set(SHARED_BOUNDS) == {name for name in histograms if all(name in table for table in SOURCES.values())}

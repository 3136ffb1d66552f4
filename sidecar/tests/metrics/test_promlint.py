"""`promtool check metrics` on what the sidecar serves: read by Prometheus' own parser, and which findings there are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from e2e_cluster import ensure_binaries
from patio.metrics.mappings import VOCABULARIES
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind
from patio_testing.sidecar.builders import sidecar_metrics

pytestmark = pytest.mark.api

RECORDINGS = Path(__file__).parents[3] / "tests/doubles/engine/src/engine_double/recordings"
FILES = [
    RECORDINGS / "vllm/metrics-0.32.0.txt",
    RECORDINGS / "sglang/metrics_busy.txt",
    RECORDINGS / "sglang/metrics_idle.txt",
    *sorted((Path(__file__).parents[1] / "older_engines").iterdir()),
]

COLON = "metric names should not contain ':'"
"""Colons are meant for recording rules. vLLM, SGLang, Patio and MatrixInfer put one behind their names all the same."""

ENGINES_OWN = {
    COLON,
    'non-counter metrics should not have "_total" suffix',
    'non-histogram and non-summary metrics should not have "_count" suffix',
    'non-histogram metrics should not have "le" label',
    "metric name should not include type 'histogram'",
    "metric names should not contain abbreviated units",
}
"""What Prometheus finds wrong with the engines' names; they pass through as they are."""


@pytest.fixture(scope="session")
def promlint() -> Path:
    return ensure_binaries(["promlint"])["promlint"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_promtool_accepts_pages_and_finds_only_colons(promlint: Path, file: Path) -> None:
    engine = EngineKind.SGLANG if "sglang" in str(file.relative_to(file.parents[1])) else EngineKind.VLLM
    self_metrics = sidecar_metrics(CollectorRegistry(), engine.value)
    self_metrics.scrape_errors.count("timeout")
    text = rewrite(file.read_bytes(), compile_rules(engine, VOCABULARIES), self_metrics.text()).text
    checked = subprocess.run([promlint], input=text, capture_output=True, check=False)
    assert checked.returncode == 3, checked.stderr
    findings = [line.partition(" ")[::2] for line in checked.stderr.decode().splitlines()]
    own_findings = {finding for name, finding in findings if name.partition(":")[0] in VOCABULARIES}
    assert own_findings == {COLON}
    assert {finding for _, finding in findings} <= ENGINES_OWN


def test_promtool_rejects_a_repeated_family(promlint: Path) -> None:
    text = b"# TYPE a gauge\na 1\n# TYPE b gauge\nb 1\n# TYPE a gauge\na 2\n"
    assert subprocess.run([promlint], input=text, capture_output=True, check=False).returncode == 1

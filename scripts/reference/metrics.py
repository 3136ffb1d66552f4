"""The page of all metrics: the vocabulary, the sidecar's own and the operator's."""

from __future__ import annotations

from collections.abc import Iterable

from scripts.reference import program
from scripts.reference.markdown import code, page, plain, table

INTRODUCTION = """\
The sidecar serves its metrics at `/metrics` on port 9091 of every engine pod. The operator serves its own at
`/metrics` on port 8080, or by HTTPS on port 8443 with `operator.metrics.secure`. [Metrics](../concepts/metrics.md) and
[Operator](../concepts/operator.md#metrics) explain what they mean, and [Scrape metrics](../tasks/scrape.md) how
Prometheus gets them."""

STANDARD = """\
## The vocabulary

Every family here has the prefix `patio:`. The two columns on the right name the engine's own families. Where a cell
has several names, the sidecar takes the first one that has samples. A dash means that the engine has no such
number: then there is no series."""


BOUNDS = """\
### Buckets that both engines have

The buckets of histograms differ between engines. Below one of these bounds (`le`), a share of observations is right
across both: `sum(rate(patio:time_to_first_token_seconds_bucket{le=~"10(\\\\.0)?"}[5m]))` over the sum of `_count`
(Prometheus 2 keeps `10`, Prometheus 3 writes `10.0`). Take quantiles for each `inference_engine` only.

The bounds are those of vLLM 0.32.0 and SGLang 0.5.23. vLLM's bounds for tokens go up to the model's longest context,
which was 512 tokens there."""

OWN = """\
## The sidecar's own

Counters are there from the start, with 0 for every set of labels that is known, so that `increase()` sees the first
event. Histograms with labels begin with their first observation. Gauges without a value, such as the disk of downloads
before the first download, have no series."""


def write() -> str:
    """Return the page."""
    rows = [
        (code(f"patio:{metric.name}"), metric.kind, plain(metric.help), *(_sources(names) for names in metric.sources))
        for metric in program.standard_metrics()
    ]
    bounds = [
        (code(name), ", ".join(f"{bound:g}" for bound in shared)) for name, shared in program.shared_bounds().items()
    ]
    prefixes = [
        (code(f"{prefix}:"), "all of the vocabulary" if prefix == "patio" else ", ".join(code(name) for name in names))
        for prefix, names in program.vocabularies().items()
    ]
    return page(
        "All metrics",
        INTRODUCTION,
        STANDARD,
        table(("name", "type", "meaning", *program.ENGINES), rows),
        BOUNDS,
        table(("histogram", "bounds"), bounds),
        "`--metrics-prefix` adds other prefixes, for dashboards of other systems:",
        table(("prefix", "names"), prefixes),
        OWN,
        _own(program.sidecar_metrics()),
        "## The operator's",
        _own(program.operator_metrics()),
    )


def _own(metrics: Iterable[program.Metric]) -> str:
    rows = [
        (code(metric.name), metric.kind, ", ".join(code(label) for label in metric.labels), plain(metric.help))
        for metric in sorted(metrics, key=lambda metric: metric.name)
    ]
    return table(("name", "type", "labels", "meaning"), rows)


def _sources(names: Iterable[str]) -> str:
    return ", ".join(plain(name) if " " in name else code(name) for name in names) or "-"

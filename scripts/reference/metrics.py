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


def write() -> str:
    """Return the page."""
    rows = [
        (code(f"patio:{metric.name}"), metric.kind, plain(metric.help), *(_sources(names) for names in metric.sources))
        for metric in program.standard_metrics()
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
        "`--metrics-prefix` adds other prefixes, for dashboards of other systems:",
        table(("prefix", "names"), prefixes),
        "## The sidecar's own",
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

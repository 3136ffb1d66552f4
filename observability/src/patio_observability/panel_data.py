"""`python -m patio_observability.panel_data URL FILE` asks a Prometheus for everything that the dashboards show.

`orders` (pure) reads a dashboard's Grafana JSON and says which queries its panels make, with all variables replaced, as
Grafana would: an instant query for a number or a table, a range for a graph, and a repeated panel once for each value.
`collect` asks them and writes the answers to one file, which `observability/pictures` draws. It never decides how
anything looks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from patio_observability import grafana
from patio_observability.dashboards import DASHBOARDS
from patio_observability.model import Dashboard, LabelValues
from patio_observability.queries import substituted, values_of

LEAST_STEP = 15.0
"""Seconds between two points: Grafana's default for a data source that does not say how often it scrapes."""
MOST_POINTS = 600
"""Points of a line, about as many as a panel has pixels."""
SECONDS = 60.0
"""How long an answer may take."""
LARGEST = 32 * 2**20
"""Bytes of one answer."""

Ask = Callable[[str, Mapping[str, str]], Any]
"""Asks Prometheus' API: a path below `/api/v1/` and its parameters, for what is in `data`."""


class AnswerError(Exception):
    """Prometheus cannot be asked, or its answer is none."""


@dataclass(frozen=True)
class Span:
    """The time that dashboards show, in seconds since 1970."""

    start: float
    end: float

    @property
    def step(self) -> float:
        """Seconds between two points."""
        return max(LEAST_STEP, (self.end - self.start) / MOST_POINTS)

    @property
    def windows(self) -> dict[str, str]:
        """Return Grafana's own variables about time.

        A rate is taken over at least four points, as `$__rate_interval` is documented.
        """
        return {
            "__range": f"{round(self.end - self.start)}s",
            "__interval": f"{round(self.step)}s",
            "__rate_interval": f"{round(4 * self.step)}s",
        }


@dataclass(frozen=True)
class Order:
    """One query of one panel, ready to be asked."""

    panel: int
    ref: str
    legend: str
    scope: tuple[tuple[str, str], ...]
    """Value of the variable for which a repeated panel is drawn."""
    expr: str
    instant: bool

    def request(self, span: Span) -> tuple[str, dict[str, str]]:
        """Return the path and the parameters."""
        if self.instant:
            return "query", {"query": self.expr, "time": f"{span.end:.3f}"}
        period = {"start": f"{span.start:.3f}", "end": f"{span.end:.3f}", "step": f"{span.step:.3f}"}
        return "query_range", {"query": self.expr, **period}


def last(seconds: float, now: float) -> Span:
    """Return the span that ends now."""
    return Span(now - seconds, now)


def panels_of(dashboard: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the panels of a dashboard's Grafana JSON that are seen at first: those of closed rows are not."""
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def orders(
    dashboard: Mapping[str, Any], values: Mapping[str, str], options: Mapping[str, Sequence[str]]
) -> Iterator[Order]:
    """Yield the queries of a dashboard.

    Args:
        dashboard: its Grafana JSON.
        values: by what each variable is replaced, Grafana's own ones included.
        options: what each variable of label values could be, for repeated panels.

    """
    for panel in panels_of(dashboard):
        name = panel.get("repeat")
        scopes = [((name, option),) for option in options[name]] if name else [()]
        for scope in scopes:
            for target in panel["targets"]:
                yield Order(
                    panel["id"],
                    target["refId"],
                    target.get("legendFormat", ""),
                    scope,
                    substituted(target["expr"], {**values, **dict(scope)}),
                    bool(target.get("instant")),
                )


def collected(dashboard: Dashboard, span: Span, ask: Ask) -> dict[str, Any]:
    """Return the answers to everything that a dashboard asks."""
    values = values_of(dashboard)
    windows = span.windows
    options: dict[str, list[str]] = {}
    period = {"start": f"{span.start:.3f}", "end": f"{span.end:.3f}"}
    for variable in dashboard.variables:
        if isinstance(variable, LabelValues):
            query = {"match[]": substituted(variable.series, values), **period}
            options[variable.name] = ask(f"label/{variable.label}/values", query)
    source = json.loads(grafana.write(dashboard))
    results = [
        {
            "panel": order.panel,
            "refId": order.ref,
            "legend": order.legend,
            "scope": dict(order.scope),
            "result": ask(*order.request(span))["result"],
        }
        for order in orders(source, {**values, **windows}, options)
    ]
    alerts = Order(0, "A", "", (), substituted(source["annotations"]["list"][0]["expr"], values), instant=False)
    return {
        "dashboard": source,
        "variables": {**values, **dict.fromkeys(options, "All")},
        "results": results,
        "annotations": ask(*alerts.request(span))["result"],
    }


@dataclass(frozen=True)
class Counts:
    """How much of the dashboards has data."""

    panels: int
    queries: int
    empty: int
    """Queries without a series."""

    def __str__(self) -> str:
        return f"{self.panels} panels, {self.queries} queries, {self.queries - self.empty} of them with data"


def collect(url: str, span: Span, file: Path) -> Counts:
    """Ask the Prometheus at a URL for what was in a span, write the answers to a file, and count them.

    Raises:
        AnswerError: it cannot be asked, or rejects a query.

    """
    with httpx.Client(base_url=f"{url.rstrip('/')}/api/v1/", timeout=SECONDS) as http:

        def ask(path: str, parameters: Mapping[str, str]) -> Any:
            return read_answer(path, http, parameters)

        found = {dashboard.uid: collected(dashboard, span, ask) for dashboard in DASHBOARDS}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"from": span.start, "to": span.end, "step": span.step, "dashboards": found}))
    results = [result for dashboard in found.values() for result in dashboard["results"]]
    return Counts(
        sum(len(dashboard.panels) for dashboard in DASHBOARDS),
        len(results),
        sum(not result["result"] for result in results),
    )


def read_answer(path: str, http: httpx.Client, parameters: Mapping[str, str]) -> Any:
    """Return what an answer has in `data`.

    Raises:
        AnswerError: there is no answer, it is too large, or it is an error; with Prometheus' words.

    """
    try:
        with http.stream("GET", path, params=parameters) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > LARGEST:
                    raise AnswerError(f"the answer to {path} is larger than {LARGEST} bytes")
    except httpx.HTTPError as error:
        raise AnswerError(f"{path} cannot be asked: {error!r}") from error
    try:
        answer = json.loads(content)
        if answer["status"] == "success":
            return answer["data"]
        message = f"{answer['errorType']}: {answer['error']}"
    except (ValueError, KeyError, TypeError):
        message = f"status {response.status_code}, not an answer of Prometheus"
    raise AnswerError(f"{path} with {dict(parameters)}: {message}")


def main(argv: Sequence[str]) -> int:
    """Collect what a Prometheus has; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m patio_observability.panel_data", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="how much time is shown (%(default)s)")
    parser.add_argument("url", help="base URL of Prometheus, such as http://127.0.0.1:9090")
    parser.add_argument("file", type=Path, help="where the answers are written")
    options = parser.parse_args(argv)
    try:
        counts = collect(options.url, last(options.minutes * 60, time.time()), options.file)
    except AnswerError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.file}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Every query of every panel and alert runs in a real Prometheus on an hour of a small fleet, and has an answer."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fleet_history
import metrics_reference
import pytest

from e2e_cluster.unpacked import PROMTOOL, ensure_unpacked
from patio_observability.dashboards import DASHBOARDS
from patio_observability.model import Dashboard, Panel
from patio_observability.panel_data import Span, collect
from patio_observability.queries import all_queries, substituted, values_of
from patio_testing.prometheus_server import prometheus

pytestmark = pytest.mark.api  # Prometheus is one of the tools

PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
OF_OTHERS = metrics_reference.EXTERNAL.keys() - {"ALERTS"}
OWN = [(dashboard, panel) for dashboard, panel in PANELS if not OF_OTHERS & set(panel.metrics)]
IDS = [f"{dashboard.uid}-{panel.title}".replace(" ", "_") for dashboard, panel in OWN]

Ask = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Server:
    """A Prometheus with an hour of a small fleet."""

    url: str
    end: int
    """Unix time of the last samples."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("prometheus")
    end = int(time.time()) // fleet_history.STEP * fleet_history.STEP
    text = folder / "history.txt"
    with text.open("w") as file:
        file.writelines(fleet_history.history(end - fleet_history.LENGTH))
    made = subprocess.run(
        [ensure_unpacked(PROMTOOL), "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    with prometheus(folder, {}) as url:
        yield Server(url, end)


@pytest.fixture(scope="module")
def ask(server: Server) -> Ask:
    """Return a function that asks a Prometheus with an hour of a small fleet."""

    def run(expr: str) -> list[dict[str, Any]]:
        query = urllib.parse.urlencode({"query": expr, "time": server.end})
        try:
            with urllib.request.urlopen(f"{server.url}/api/v1/query?{query}", timeout=30) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            pytest.fail(f"{expr}\n{error.read().decode()}")
        return found

    return run


@pytest.mark.parametrize(("dashboard", "panel"), OWN, ids=IDS)
def test_every_query_of_a_panel_has_an_answer(dashboard: Dashboard, panel: Panel, ask: Ask) -> None:
    for query in panel.queries:
        answer = ask(substituted(query.expr, values_of(dashboard)))
        assert answer, query.expr
        values = [float(sample["value"][1]) for sample in answer]
        assert not [value for value in values if math.isnan(value) or math.isinf(value)], query.expr


def test_pictures_have_something_to_draw_in_every_panel(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    assert collect(server.url, Span(server.end - 600, server.end), file).empty == 0
    data = json.loads(file.read_text())
    assert data["dashboards"].keys() == {dashboard.uid for dashboard in DASHBOARDS}
    graphs = [result["result"] for result in data["dashboards"]["patio-fleet"]["results"]]
    assert max(len(series.get("values", ())) for result in graphs for series in result) == 600 / data["step"] + 1


def test_alerts_and_panels_of_other_exporters_can_be_evaluated(ask: Ask) -> None:
    for query in all_queries():
        ask(query["expr"])


def test_panels_have_answers_for_one_model_of_one_engine(ask: Ask) -> None:
    # vLLM has more families than SGLang, and an adapter's slots on it have no model.
    chosen = {"model_name": "tiny", "inference_engine": "vllm"}
    silent = []
    for dashboard, panel in OWN:
        values = values_of(dashboard)
        values |= {name: value for name, value in chosen.items() if name in values}
        silent += [panel.title for query in panel.queries if not ask(substituted(query.expr, values))]
    # vLLM 0.32 tells it by other families.
    assert silent == ["Accepted draft tokens"]


def test_panels_of_one_namespace_leave_the_other_out(ask: Ask) -> None:
    for dashboard, panel in PANELS:
        if dashboard.uid == "patio-operator":
            continue
        for query in panel.queries:
            chosen = ask(substituted(query.expr, values_of(dashboard) | {"namespace": "team-0"}))
            assert {sample["metric"].get("namespace", "team-0") for sample in chosen} <= {"team-0"}, query.expr


@pytest.mark.parametrize(
    ("uid", "title", "expected"),
    [
        ("patio-fleet", "Pods", 2),
        ("patio-fleet", "Engines up", 2),
        ("patio-fleet", "Engines not up", 0),
        # Two adapters in each of six states on two pods; those that are unloaded are not desired.
        ("patio-fleet", "Adapters loaded", 4 / 20),
        ("patio-adapters", "Failed", 4),
        ("patio-operator", "Leaders", 1),
        ("patio-operator", "Failed passes", 0.25),
    ],
)
def test_number_is_what_the_fleet_has(uid: str, title: str, expected: float, ask: Ask) -> None:
    ((dashboard, panel),) = [
        entry for entry in PANELS if (entry[0].uid, entry[1].title) == (uid, title) and entry[1].width == 3
    ]
    (answer,) = ask(substituted(panel.queries[0].expr, values_of(dashboard)))
    assert float(answer["value"][1]) == pytest.approx(expected)

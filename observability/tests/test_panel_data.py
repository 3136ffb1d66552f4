"""What is asked of a Prometheus for a picture of a dashboard, and what becomes of its answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from patio_observability import grafana, panel_data
from patio_observability.dashboards import DASHBOARDS, ENGINE
from patio_observability.model import Dashboard, Kind
from patio_observability.panel_data import AnswerError, Order, Span
from patio_observability.queries import values_of

SPAN = Span(1000.0, 1720.0)
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)


def orders(dashboard: Dashboard, **options: list[str]) -> list[Order]:
    source = json.loads(grafana.write(dashboard))
    return list(panel_data.orders(source, {**values_of(dashboard), **SPAN.windows}, options))


@pytest.mark.parametrize(
    ("seconds", "step", "windows"),
    [
        (720, 15, {"__range": "720s", "__interval": "15s", "__rate_interval": "60s"}),
        (36_000, 60, {"__range": "36000s", "__interval": "60s", "__rate_interval": "240s"}),
    ],
)
def test_longer_spans_have_longer_steps(seconds: int, step: float, windows: Mapping[str, str]) -> None:
    span = Span(0, seconds)
    assert span.step == step
    assert span.windows == windows


@every_dashboard
def test_every_query_of_open_rows_is_ordered_once(dashboard: Dashboard) -> None:
    panels = [panel for row in dashboard.rows if not row.collapsed for panel in row.panels]
    found = orders(dashboard, inference_engine=["vllm"])
    assert len(found) == sum(len(panel.queries) for panel in panels)
    assert len({(order.panel, order.ref) for order in found}) == len(found)


@every_dashboard
def test_no_variable_is_left_in_an_ordered_query(dashboard: Dashboard) -> None:
    assert not [order.expr for order in orders(dashboard, inference_engine=["vllm"]) if "$" in order.expr]


def test_repeated_panel_is_ordered_for_each_value() -> None:
    scopes = [order.scope for order in orders(ENGINE, inference_engine=["vllm", "sglang"]) if order.scope]
    heatmaps = [panel for panel in ENGINE.panels if panel.kind is Kind.HEATMAP]
    assert scopes.count((("inference_engine", "vllm"),)) == len(heatmaps)
    assert scopes.count((("inference_engine", "sglang"),)) == len(heatmaps)
    exprs = {order.expr for order in orders(ENGINE, inference_engine=["sglang"]) if order.scope}
    assert all('inference_engine=~"sglang"' in expr for expr in exprs)


def test_repeated_panel_without_values_is_not_ordered() -> None:
    assert not [order for order in orders(ENGINE, inference_engine=[]) if order.scope]


def test_numbers_are_asked_at_the_end_and_graphs_in_steps() -> None:
    order = Order(1, "A", "", (), "up", instant=True)
    assert order.request(SPAN) == ("query", {"query": "up", "time": "1720.000"})
    order = Order(1, "A", "", (), "up", instant=False)
    times = {"start": "1000.000", "end": "1720.000", "step": "15.000"}
    assert order.request(SPAN) == ("query_range", {"query": "up", **times})


@every_dashboard
def test_collected_dashboard_has_answers_and_values(dashboard: Dashboard) -> None:
    requests = []

    def ask(path: str, parameters: Mapping[str, str]) -> Any:
        requests.append((path, parameters))
        return ["some-value"] if path.startswith("label/") else {"result": [{"metric": {}, "value": [1, "1"]}]}

    found = panel_data.collected(dashboard, SPAN, ask)
    assert found["dashboard"]["uid"] == dashboard.uid
    assert found["variables"]["namespace"] == "All"
    assert all(result["result"] for result in found["results"])
    assert [parameters["match[]"] for path, parameters in requests if path == "label/cluster/values"] == [
        "patio:engine_up"
    ]
    assert len(requests) == len(found["results"]) + 1 + sum(path.startswith("label/") for path, _ in requests)


def answered(status: int, content: str | bytes) -> Any:
    transport = httpx.MockTransport(lambda _: httpx.Response(status, content=content))
    with httpx.Client(base_url="http://prometheus/api/v1/", transport=transport) as http:
        return panel_data.read_answer("query", http, {"query": "up"})


def test_answer_of_prometheus_is_its_data() -> None:
    assert answered(200, '{"status": "success", "data": {"result": []}}') == {"result": []}


@pytest.mark.parametrize(
    ("status", "content", "message"),
    [
        (400, '{"status": "error", "errorType": "bad_data", "error": "parse error"}', "bad_data: parse error"),
        (502, "<html>", "status 502, not an answer of Prometheus"),
        (200, "[]", "status 200, not an answer of Prometheus"),
    ],
)
def test_answer_that_is_none_is_an_error_with_its_words(status: int, content: str, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        answered(status, content)


def test_answer_at_the_limit_is_read_and_past_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    content = '{"status": "success", "data": []}'
    monkeypatch.setattr(panel_data, "LARGEST", len(content))
    assert answered(200, content) == []
    with pytest.raises(AnswerError, match="larger"):
        answered(200, content + " ")


def test_nobody_at_the_address_is_an_error(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    assert panel_data.main(["http://127.0.0.1:1", str(tmp_path / "data.json")]) == 1
    assert "cannot be asked" in capsys.readouterr().err

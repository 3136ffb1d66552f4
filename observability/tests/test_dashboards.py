"""The dashboards: every panel asks for metrics that exist, in a way that cannot lie, and fits on the page."""

from __future__ import annotations

import json
import re
from itertools import combinations

import metrics_reference
import promql_lint
import pytest

from patio_observability import grafana, perses
from patio_observability.alerts import ALERTS
from patio_observability.dashboards import ADAPTERS, DASHBOARDS, adapters
from patio_observability.dashboards.parts import TPOT_BOUNDS, TTFT_BOUNDS
from patio_observability.layout import COLUMNS, place
from patio_observability.model import Dashboard, Kind, Panel
from patio_observability.queries import substituted, values_of

ROOT = metrics_reference.ROOT
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]
IDS = [f"{dashboard.uid}-{panel.title}".replace(" ", "_") for dashboard, panel in PANELS]
every_panel = pytest.mark.parametrize(("dashboard", "panel"), PANELS, ids=IDS)
every_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
LARGEST_PICTURE = 400_000
"""Bytes of a picture in the documentation."""
NARROW = 1280
"""Pixels of a narrow screen."""
LARGEST = 150_000
"""Bytes of a dashboard. Four of them and the rest of the chart must fit into the Secret of a Helm release (1 MiB)."""


@every_panel
def test_queries_ask_only_for_metrics_that_exist(dashboard: Dashboard, panel: Panel) -> None:
    assert [name for query in panel.queries for name in promql_lint.unknown_names(query.expr)] == []


@every_panel
def test_queries_are_sound(dashboard: Dashboard, panel: Panel) -> None:
    for query in panel.queries:
        for rule in (
            promql_lint.rates_of_gauges,
            promql_lint.counters_without_rate,
            promql_lint.mixed_quantiles,
            promql_lint.unguarded_divisions,
        ):
            assert list(rule(query.expr)) == [], (rule.__name__, query.expr)


@every_panel
def test_quantiles_without_observations_have_no_series(dashboard: Dashboard, panel: Panel) -> None:
    for query in panel.queries:
        assert query.expr.startswith("histogram_quantile(") == query.expr.endswith(") >= 0"), query.expr
        assert query.expr.count("histogram_quantile(") <= 1, query.expr


@every_panel
def test_queries_use_patios_names_not_an_engines(dashboard: Dashboard, panel: Panel) -> None:
    assert not [query.expr for query in panel.queries if re.search(r"\b(vllm|sglang):", query.expr)]


@every_panel
def test_panel_says_what_it_shows_and_what_to_do(dashboard: Dashboard, panel: Panel) -> None:
    assert panel.shows.endswith(".")
    assert panel.act.endswith(".")
    assert panel.metrics, "the description names the metric"
    for runbook in re.findall(r"\bPatio[A-Z]\w+", panel.description):
        assert runbook in {alert.name for alert in ALERTS}


@every_panel
def test_panel_has_a_unit_and_a_text_for_no_data(dashboard: Dashboard, panel: Panel) -> None:
    assert panel.unit
    assert panel.empty
    assert panel.queries
    assert bool(panel.states) == (panel.kind is Kind.STATE_TIMELINE)
    assert bool(panel.keys) == (panel.kind is Kind.TABLE)
    # Grafana calls the value of a single query by another name.
    assert panel.kind is not Kind.TABLE or len(panel.queries) > 1


@every_panel
def test_labels_of_a_table_are_its_columns(dashboard: Dashboard, panel: Panel) -> None:
    if panel.kind is not Kind.TABLE:
        return
    titles = [key.title for key in panel.keys] + [query.legend for query in panel.queries if query.legend]
    assert len(titles) == len(set(titles))
    for query in panel.queries:
        by = re.search(r"\bby \(([^)]*)\)", query.expr)
        assert by is not None, query.expr
        # A cluster is shown where series have one.
        assert {*by[1].split(", ")} - {key.label for key in panel.keys} <= {"cluster", "le"}, query.expr


@every_dashboard
def test_panels_do_not_overlap_and_stay_on_the_page(dashboard: Dashboard) -> None:
    placed = [(panel.title, where) for row in place(dashboard.rows) for panel, where in row.panels]
    for title, where in placed:
        assert where.x + where.width <= COLUMNS, title
    # A collapsed row's panels lie below its heading, where the next row is until it is opened.
    visible = [panel for row in place(dashboard.rows) if not row.row.collapsed for panel in row.panels]
    for (first, at), (second, other) in combinations(visible, 2):
        beside = at.x + at.width <= other.x or other.x + other.width <= at.x
        above = at.y + at.height <= other.y or other.y + other.height <= at.y
        assert beside or above, (first.title, second.title)


@every_dashboard
def test_variables_are_defined_before_they_are_used(dashboard: Dashboard) -> None:
    values = values_of(dashboard)
    for panel in dashboard.panels:
        for query in panel.queries:
            assert "$" not in substituted(query.expr, values)
    known: dict[str, str] = {}
    for variable in dashboard.variables:
        if hasattr(variable, "series"):
            assert list(promql_lint.unknown_names(variable.series)) == []
            substituted(variable.series, known)
        known[variable.name] = ".*"
    used = {name for panel in dashboard.panels for query in panel.queries for name in variables(query.expr)}
    used |= {name for variable in dashboard.variables for name in variables(getattr(variable, "series", ""))}
    assert {variable.name for variable in dashboard.variables} - used == set(), "variables without a use"


def variables(expr: str) -> set[str]:
    return set(re.findall(r"\$\{?(\w+)", expr))


def test_uids_titles_and_panel_titles_are_unique() -> None:
    assert (
        len({dashboard.uid for dashboard in DASHBOARDS})
        == len({dashboard.title for dashboard in DASHBOARDS})
        == len(DASHBOARDS)
    )
    for dashboard in DASHBOARDS:
        for row in dashboard.rows:
            titles = [panel.title for panel in row.panels]
            assert len(titles) == len(set(titles)), dashboard.uid


def test_links_lead_to_dashboards_and_labels_that_are_there() -> None:
    known = {dashboard.uid: {variable.name for variable in dashboard.variables} for dashboard in DASHBOARDS}
    for dashboard in DASHBOARDS:
        for panel in dashboard.panels:
            labels = {key.label for key in panel.keys}
            for key in panel.keys:
                if key.opens:
                    assert {*key.carries, key.label} <= known[key.opens] & labels, panel.title
            if panel.opens_pod:
                assert all("pod" in query.expr for query in panel.queries)
    for alert in ALERTS:
        assert set(alert.labels) <= known[alert.dashboard], alert.name


@every_dashboard
def test_grafana_gets_panels_and_no_fixed_data_source(dashboard: Dashboard) -> None:
    text = grafana.write(dashboard)
    assert len(text.encode()) < LARGEST
    made = json.loads(text)
    assert (made["uid"], made["refresh"], made["time"]) == (dashboard.uid, "30s", {"from": "now-1h", "to": "now"})
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {dashboard.uid, "${datasource}"}
    panels = [panel for row in made["panels"] for panel in (row, *row.get("panels", ()))]
    identities = [panel["id"] for panel in panels]
    assert len(identities) == len(set(identities))
    drawn = [panel for panel in panels if panel["type"] != "row"]
    assert len(drawn) == len(dashboard.panels)
    for panel in drawn:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["fieldConfig"]["defaults"]["noValue"]
    (link,) = made["links"]
    assert (link["type"], link["keepTime"], link["includeVars"]) == ("dashboards", True, True)
    assert made["annotations"]["list"][0]["expr"].startswith("ALERTS{alertname=~")
    assert made["templating"]["list"][0]["type"] == "datasource"


@every_dashboard
def test_grafana_json_is_what_the_sdk_reads_back(dashboard: Dashboard) -> None:
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard as Model

    text = grafana.write(dashboard)
    read = Model.from_json(json.loads(text))
    assert json.dumps(read, cls=JSONEncoder, indent=1, sort_keys=True) + "\n" == text


@every_dashboard
def test_perses_has_every_panel_once(dashboard: Dashboard) -> None:
    spec = json.loads(perses.write(dashboard))["spec"]
    placed = [item["content"]["$ref"] for grid in spec["layouts"] for item in grid["spec"]["items"]]
    assert sorted(placed) == sorted(f"#/spec/panels/{key}" for key in spec["panels"])
    assert len(placed) == len(dashboard.panels)
    assert "datasource" not in json.dumps(spec)
    assert [variable["spec"]["name"] for variable in spec["variables"]] == [
        variable.name for variable in dashboard.variables
    ]


def test_every_metric_of_the_products_is_shown() -> None:
    shown = {name for dashboard in DASHBOARDS for panel in dashboard.panels for name in panel.metrics}
    same_as_another = {"patio:generation_tokens_total", "patio:gpu_cache_usage_perc"}
    # A number of the last moment on one engine and of another kind on the other: hits over input tokens instead.
    not_comparable = {"patio:prefix_cache_hit_ratio", "patio:prefix_cache_queries_total"}
    # Says nothing about a Linux process.
    useless = {"process_virtual_memory_bytes"}
    assert set(metrics_reference.metrics()) - shown == same_as_another | not_comparable | useless


@pytest.mark.parametrize(
    ("family", "bounds"), [("time_to_first_token_seconds", TTFT_BOUNDS), ("time_per_output_token_seconds", TPOT_BOUNDS)]
)
def test_bounds_to_choose_are_buckets_of_both_engines(family: str, bounds: tuple[str, ...]) -> None:
    recordings = next(ROOT.glob("tests/**/engine_double/recordings"))
    sources = {
        "vllm/metrics-0.32.0.txt": f"vllm:(?:request_)?{family}_bucket",
        "sglang/metrics_busy.txt": f"sglang:(?:request_)?{family}_bucket",
    }
    for file, name in sources.items():
        text = (recordings / file).read_text()
        found = {float(le) for le in re.findall(rf'^{name}\{{[^}}]*le="([^"]+)"', text, re.M)}
        assert {float(bound) for bound in bounds} <= found, file


@every_dashboard
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_documentation_shows_a_picture_of_each_dashboard(dashboard: Dashboard, theme: str) -> None:
    picture = ROOT / "docs/pictures" / f"{dashboard.uid}-{theme}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < LARGEST_PICTURE
    page = (ROOT / "docs/tasks/dashboards.md").read_text()
    alternative = r"!\[[^\]]{40,}\]" if theme == "light" else r"\[dark\]"
    assert re.search(rf"{alternative}\(\.\./pictures/{picture.name}\)", page)


@every_dashboard
def test_tables_are_sorted_and_leave_room_for_all_columns(dashboard: Dashboard) -> None:
    tables = [panel for panel in json.loads(grafana.write(dashboard))["panels"] if panel["type"] == "table"]
    for table in tables:
        assert [field["displayName"] for field in table["options"]["sortBy"]]
        assert table["fieldConfig"]["defaults"]["custom"]["minWidth"] == grafana.COLUMN
        (organize,) = [
            transformation for transformation in table["transformations"] if transformation["id"] == "organize"
        ]
        assert grafana.COLUMN * len(organize["options"]["renameByName"]) <= NARROW


def test_series_of_a_state_have_its_colour() -> None:
    (panel,) = [panel for panel in ADAPTERS.panels if panel.title == "States over time"]
    written = [entry for entry in json.loads(grafana.write(ADAPTERS))["panels"] if entry["title"] == panel.title]
    colors = {rule["matcher"]["options"]: rule["properties"] for rule in written[0]["fieldConfig"]["overrides"]}
    assert colors["Failed"] == [{"id": "color", "value": {"mode": "fixed", "fixedColor": "red"}}]
    assert colors.keys() == {state.text for state in adapters.STATES}

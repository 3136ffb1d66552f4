"""Writes a dashboard as JSON for Perses (0.50 and newer), from the same values as `grafana`.

Perses has no repeated panel: such a panel is drawn once, and its buckets are bands. The data source is Perses' default
one of Prometheus.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from patio_observability.layout import PlacedRow, place
from patio_observability.model import CustomVariable, Dashboard, Kind, Panel, Query, Unit, Variable

PROJECT = "patio"
UNITS: Mapping[Unit, str] = {
    Unit.COUNT: "decimal",
    Unit.SECONDS: "seconds",
    Unit.SHARE: "percent-decimal",
    Unit.BYTES: "bytes",
    Unit.BYTES_PER_SECOND: "bytes/sec",
    Unit.REQUESTS_PER_SECOND: "requests/sec",
    Unit.OPERATIONS_PER_SECOND: "ops/sec",
    Unit.TOKENS: "decimal",
    Unit.TOKENS_PER_SECOND: "counts/sec",
    Unit.CORES: "decimal",
    Unit.WATTS: "decimal",
    Unit.PERCENT: "percent",
    Unit.STATE: "decimal",
}
COLORS = {
    "green": "#56a64b",
    "yellow": "#f2cc0c",
    "orange": "#ff780a",
    "red": "#e02f44",
    "blue": "#3274d9",
    "gray": "#808080",
}


def write(source: Dashboard) -> str:
    """Return the JSON."""
    rows = tuple(place(source.rows))
    panels = [panel for placed in rows for panel, _ in placed.panels]
    written = {
        "kind": "Dashboard",
        "metadata": {"name": source.uid, "project": PROJECT},
        "spec": {
            "display": {"name": source.title, "description": source.description},
            "duration": "1h",
            "refreshInterval": "30s",
            "variables": [_variable(variable) for variable in source.variables],
            "panels": {_key(panels, panel): _panel(panel) for panel in panels},
            "layouts": [_layout(placed, panels) for placed in rows],
        },
    }
    return json.dumps(written, indent=1) + "\n"


def _key(panels: list[Panel], panel: Panel) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", panel.title.lower()).strip("-")
    return f"{panels.index(panel) + 1:02}-{name}"


def _variable(variable: Variable) -> dict[str, Any]:
    spec: dict[str, Any] = {"name": variable.name, "display": {"name": variable.title}}
    if isinstance(variable, CustomVariable):
        plugin = {"kind": "StaticListVariable", "spec": {"values": list(variable.values)}}
        spec |= {"defaultValue": variable.default, "allowAllValue": False, "allowMultiple": False, "plugin": plugin}
    else:
        labels = {"labelName": variable.label, "matchers": [variable.series]}
        plugin = {"kind": "PrometheusLabelValuesVariable", "spec": labels}
        spec |= {
            "defaultValue": ["$__all"],
            "allowAllValue": True,
            "allowMultiple": True,
            "customAllValue": ".*",
            "sort": "alphabetical-asc",
            "plugin": plugin,
        }
    return {"kind": "ListVariable", "spec": spec}


def _panel(panel: Panel) -> dict[str, Any]:
    title = panel.title.replace(", $inference_engine", "") if panel.repeat else panel.title
    return {
        "kind": "Panel",
        "spec": {
            "display": {"name": title, "description": panel.description},
            "plugin": {"kind": _PLUGINS[panel.kind][0], "spec": _PLUGINS[panel.kind][1](panel)},
            "queries": [_query(panel, query) for query in panel.queries],
        },
    }


def _query(panel: Panel, query: Query) -> dict[str, Any]:
    spec: dict[str, Any] = {"query": query.expr}
    if query.legend and panel.kind is not Kind.TABLE:
        spec["seriesNameFormat"] = query.legend
    return {"kind": "TimeSeriesQuery", "spec": {"plugin": {"kind": "PrometheusTimeSeriesQuery", "spec": spec}}}


def _format(unit: Unit) -> dict[str, Any]:
    return {"unit": UNITS[unit], "shortValues": True} if UNITS[unit] in ("decimal", "bytes") else {"unit": UNITS[unit]}


def _stat(panel: Panel) -> dict[str, Any]:
    nothing = [
        {"kind": "Misc", "spec": {"value": value, "result": {"value": panel.empty}}} for value in ("null", "NaN")
    ]
    spec: dict[str, Any] = {"calculation": "last", "format": _format(panel.unit), "mappings": nothing}
    if panel.steps:
        spec["thresholds"] = {"steps": [{"value": step.at, "color": COLORS[step.color]} for step in panel.steps]}
    return spec


def _time_series(panel: Panel) -> dict[str, Any]:
    axis: dict[str, Any] = {"format": _format(panel.unit), "min": 0}
    if panel.greatest is not None:
        axis["max"] = panel.greatest
    visual: dict[str, Any] = {"display": "bar" if panel.bars else "line", "areaOpacity": 0.1}
    if panel.stacked or panel.bars or panel.kind is Kind.HEATMAP:
        visual |= {"stack": "all", "areaOpacity": 0.3}
    return {"yAxis": axis, "visual": visual, "legend": {"position": "bottom", "mode": "list"}}


def _table(panel: Panel) -> dict[str, Any]:
    columns: list[dict[str, Any]] = [{"name": "timestamp", "hide": True}]
    columns += [{"name": key.label, "header": key.title, "enableSorting": True} for key in panel.keys]
    for number, query in enumerate(panel.queries, start=1):
        name = f"value #{number}" if len(panel.queries) > 1 else "value"
        column: dict[str, Any] = {"name": name, "header": query.legend, "enableSorting": True}
        columns.append(column | ({"format": _format(query.unit or panel.unit)} if query.legend else {"hide": True}))
    return {"columnSettings": columns, "density": "compact", "transforms": [{"kind": "MergeSeries", "spec": {}}]}


def _states(panel: Panel) -> dict[str, Any]:
    return {
        "legend": {"position": "bottom"},
        "mappings": [
            {
                "kind": "Value",
                "spec": {"value": str(state.value), "result": {"value": state.text, "color": COLORS[state.color]}},
            }
            for state in panel.states
        ],
    }


_PLUGINS = {
    Kind.STAT: ("StatChart", _stat),
    Kind.TIME_SERIES: ("TimeSeriesChart", _time_series),
    Kind.TABLE: ("Table", _table),
    Kind.STATE_TIMELINE: ("StatusHistoryChart", _states),
    # Its own heatmap draws native histograms only, which engines do not have: bands of the buckets instead.
    Kind.HEATMAP: ("TimeSeriesChart", _time_series),
}


def _layout(placed: PlacedRow, panels: list[Panel]) -> dict[str, Any]:
    # A grid has its own lines: the first panel stands at 0.
    top = min((where.y for _, where in placed.panels), default=0)
    return {
        "kind": "Grid",
        "spec": {
            "display": {"title": placed.row.title, "collapse": {"open": not placed.row.collapsed}},
            "items": [
                {
                    "x": where.x,
                    "y": where.y - top,
                    "width": where.width,
                    "height": where.height,
                    "content": {"$ref": f"#/spec/panels/{_key(panels, panel)}"},
                }
                for panel, where in placed.panels
            ],
        },
    }

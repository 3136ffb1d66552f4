"""Writes a dashboard as Grafana's JSON, by the types of grafana-foundation-sdk (Grafana 11.6).

Nothing is decided here but how Grafana says it: which plugin draws a kind of panel, how a table joins its columns, and
which URL a click opens. The data source is a variable, so that a dashboard can be provisioned anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from patio_observability.layout import GridPosition, place
from patio_observability.model import CustomVariable, Dashboard, Key, Kind, Panel, Query, State, Step, Variable

DATASOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
TIME = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}"
TAG = "patio"
BUILDERS: dict[Kind, Any] = {
    Kind.STAT: stat.Panel,
    Kind.TIME_SERIES: timeseries.Panel,
    Kind.TABLE: table.Panel,
    Kind.STATE_TIMELINE: statetimeline.Panel,
    Kind.HEATMAP: heatmap.Panel,
}
NO_CELL = "-"
COLUMN = 75
"""Least pixels of a table's column: by Grafana's default of 150, half of a table would be out of sight."""
ALL = ".*"
"""What "all" asks: it also matches series without the label, such as `cluster` where there is one cluster only."""


def write(source: Dashboard) -> str:
    """Return the JSON."""
    made = (
        builders.Dashboard(source.title)
        .uid(source.uid)
        .description(source.description)
        .tags([TAG])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .editable()
        .link(
            builders.DashboardLink("Patio")
            .type(dashboard.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .keep_time(True)
            .include_vars(True)
        )
        .annotation(_annotation())
        .with_variable(
            builders.DatasourceVariable("datasource")
            .label("Data source")
            .type("prometheus")
            .current(dashboard.VariableOption(selected=False, text="default", value="default"))
        )
    )
    for variable in source.variables:
        made = made.with_variable(_variable(variable))
    number = 0
    for placed in place(source.rows):
        heading = (
            builders.Row(placed.row.title)
            .id(number := number + 1)
            .grid_pos(dashboard.GridPos(h=1, w=24, x=0, y=placed.y))
            .collapsed(placed.row.collapsed)
        )
        panels = []
        for panel, where in placed.panels:
            panels.append(_panel(panel, where, number := number + 1))
        if placed.row.collapsed:
            for built in panels:
                heading = heading.with_panel(built)
        made = made.with_row(heading)
        if not placed.row.collapsed:
            for built in panels:
                made = made.with_panel(built)
    return json.dumps(made.build(), cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def _annotation() -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name("Firing alerts")
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{alertname=~"Patio.*", alertstate="firing"}')
    )


def _variable(variable: Variable) -> Any:
    if isinstance(variable, CustomVariable):
        options = ",".join(variable.values)
        current = dashboard.VariableOption(selected=True, text=variable.default, value=variable.default)
        return builders.CustomVariable(variable.name).label(variable.title).values(options).current(current)
    return (
        builders.QueryVariable(variable.name)
        .label(variable.title)
        .datasource(DATASOURCE)
        .query({"query": f"label_values({variable.series}, {variable.label})", "refId": variable.name})
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.NATURAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(ALL)
        .current(dashboard.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _panel(panel: Panel, where: GridPosition, number: int) -> Any:
    made = (
        BUILDERS[panel.kind]()
        .id(number)
        .title(panel.title)
        .description(panel.description)
        .datasource(DATASOURCE)
        .grid_pos(dashboard.GridPos(h=where.height, w=where.width, x=where.x, y=where.y))
        .unit(panel.unit)
        .no_value(panel.empty)
        .targets([_target(panel, query, index) for index, query in enumerate(panel.queries)])
        .mappings(_mappings(panel))
    )
    if panel.steps:
        made = made.thresholds(_thresholds(panel.steps))
    if panel.greatest is not None:
        made = made.min(0).max(panel.greatest)
    if panel.repeat:
        made = made.repeat(panel.repeat).repeat_direction("h").max_per_row(2)
    if panel.opens_pod:
        made = made.data_links([_pod_link()])
    return _DRESS[panel.kind](made, panel)


def _target(panel: Panel, query: Query, index: int) -> prometheus.Dataquery:
    made = prometheus.Dataquery().ref_id(_letter(index)).expr(query.expr).datasource(DATASOURCE)
    if panel.kind is Kind.TABLE:
        return made.instant().format(PromQueryFormat.TABLE)
    if panel.kind is Kind.HEATMAP:
        return made.range().format(PromQueryFormat.HEATMAP).legend_format(query.legend)
    if panel.kind is Kind.STAT:
        # A range would show the last number of a series that ended long ago, instead of that there is none.
        return made.instant().legend_format(query.legend or "__auto")
    return made.range().legend_format(query.legend or "__auto")


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _mappings(panel: Panel) -> list[dashboard.ValueMapping]:
    # A cell without a value says nothing of the whole table.
    text = NO_CELL if panel.kind is Kind.TABLE else panel.empty
    nothing = dashboard.DashboardSpecialValueMapOptions(
        match=dashboard.SpecialValueMatch.NULL_AND_NAN, result=dashboard.ValueMappingResult(text=text)
    )
    return [*_states(panel.states), dashboard.SpecialValueMap(options=nothing)]


def _states(states: Iterable[State]) -> list[dashboard.ValueMap]:
    return [
        dashboard.ValueMap(options={str(state.value): dashboard.ValueMappingResult(text=state.text, color=state.color)})
        for state in states
    ]


def _thresholds(steps: Iterable[Step]) -> builders.ThresholdsConfig:
    return (
        builders.ThresholdsConfig()
        .mode(dashboard.ThresholdsMode.ABSOLUTE)
        .steps(
            [
                dashboard.Threshold(value=None, color="text"),
                *(dashboard.Threshold(value=step.at, color=step.color) for step in steps),
            ]
        )
    )


def _pod_link() -> builders.DashboardLink:
    url = f"/d/patio-engine?var-namespace=${{__field.labels.namespace}}&var-pod=${{__field.labels.pod}}&{TIME}"
    return builders.DashboardLink("Open the pod").url(url)


def _stat(made: Any, panel: Panel) -> Any:
    return (
        made.reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .graph_mode(common.BigValueGraphMode.NONE)
        .color_mode(common.BigValueColorMode.VALUE)
        .text_mode(common.BigValueTextMode.VALUE_AND_NAME if panel.queries[0].legend else common.BigValueTextMode.VALUE)
    )


def _time_series(made: Any, panel: Panel) -> Any:
    made = (
        made.legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING)
        )
        .axis_soft_min(0)
        .show_points(common.VisibilityMode.NEVER)
        .fill_opacity(30 if panel.stacked or panel.bars else 5)
    )
    if panel.bars:
        made = made.draw_style(common.GraphDrawStyle.BARS)
    if panel.stacked or panel.bars:
        made = made.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    for name, color in panel.colors:
        fixed = {"mode": "fixed", "fixedColor": color}
        made = made.override_by_name(name, [dashboard.DynamicConfigValue(id_val="color", value=fixed)])
    return made


def _state_timeline(made: Any, panel: Panel) -> Any:
    return (
        made.merge_values(True)
        .show_value(common.VisibilityMode.NEVER)
        .row_height(0.8)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
    )


def _heatmap(made: Any, panel: Panel) -> Any:
    return made.calculate(False).y_axis(heatmap.YAxisConfig().unit(panel.unit)).hide_y_histogram().show_legend()


def _table(made: Any, panel: Panel) -> Any:
    values = {f"Value #{_letter(index)}": query for index, query in enumerate(panel.queries)}
    names = {name: query.legend for name, query in values.items() if query.legend}
    names |= {key.label: key.title for key in panel.keys}
    hidden = ["Time", *(name for name, query in values.items() if not query.legend)]
    order = [*(key.label for key in panel.keys), *values]
    made = made.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    made = made.with_transformation(
        dashboard.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(hidden, True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": names,
            },
        )
    )
    for key in panel.keys:
        looks = []
        if key.opens:
            looks.append(dashboard.DynamicConfigValue(id_val="links", value=[_cell_link(key, panel)]))
        if key.width:
            looks.append(dashboard.DynamicConfigValue(id_val="custom.width", value=key.width))
        if looks:
            made = made.override_by_name(key.title, looks)
    for query in panel.queries:
        if query.states:
            shown = [
                dashboard.DynamicConfigValue(id_val="mappings", value=_states(query.states)),
                dashboard.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}),
            ]
            made = made.override_by_name(query.legend, shown)
        if query.legend and query.unit is not None:
            made = made.override_by_name(
                query.legend, [dashboard.DynamicConfigValue(id_val="unit", value=str(query.unit))]
            )
    order_by = [common_builders.TableSortByFieldState().display_name(key.title) for key in panel.keys[:2]]
    return made.cell_height(common.TableCellHeight.SM).min_width(COLUMN).sort_by(order_by)


def _cell_link(key: Key, panel: Panel) -> dict[str, str]:
    titles = {key.label: key.title for key in panel.keys}
    chosen = "&".join(f'var-{label}=${{__data.fields["{titles[label]}"]}}' for label in (*key.carries, key.label))
    return {"title": f"Open {key.title.lower()} ${{__value.text}}", "url": f"/d/{key.opens}?{chosen}&{TIME}"}


_DRESS = {
    Kind.STAT: _stat,
    Kind.TIME_SERIES: _time_series,
    Kind.TABLE: _table,
    Kind.STATE_TIMELINE: _state_timeline,
    Kind.HEATMAP: _heatmap,
}

"""Dashboards as values: panels with what they show and what to do, in rows, with variables and links.

`dashboards` makes these values, `layout` places them, and `grafana` and `perses` write them. A panel is one entry: its
place follows from its width and height, and its description is put together from `shows`, its metrics and `act`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

METRIC = re.compile(r"(?<![\w:])(?:patio:\w+|patio_operator_\w+|(?:container|kube|process)_\w+|DCGM_\w+|ALERTS)(?=\{)")


class Kind(StrEnum):
    """How a panel draws its queries."""

    STAT = "stat"
    TIME_SERIES = "timeseries"
    TABLE = "table"
    STATE_TIMELINE = "state-timeline"
    HEATMAP = "heatmap"


class Unit(StrEnum):
    """Units, by Grafana's names; `perses` has the names of Perses."""

    COUNT = "short"
    SECONDS = "s"
    SHARE = "percentunit"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    REQUESTS_PER_SECOND = "reqps"
    OPERATIONS_PER_SECOND = "ops"
    TOKENS = "si:tok"
    TOKENS_PER_SECOND = "si:tok/s"
    CORES = "suffix: cores"
    WATTS = "watt"
    PERCENT = "percent"
    STATE = "none"


@dataclass(frozen=True)
class State:
    """Words and a colour for a value that stands for a state."""

    value: int
    text: str
    color: str


@dataclass(frozen=True)
class Query:
    """One query of a panel; in a table, one column."""

    expr: str
    legend: str = ""
    unit: Unit | None = None
    """Unit of a table's column, if it is not the panel's."""
    states: tuple[State, ...] = ()
    """Words for the values of a table's column."""


@dataclass(frozen=True)
class Key:
    """A label that a table has as a column."""

    label: str
    title: str
    opens: str = ""
    """UID of the dashboard that a click on the cell opens, with the label's value as its variable."""
    carries: tuple[str, ...] = ()
    """Other labels of the row that the click takes along."""
    width: int = 0
    """Pixels of a column whose values need more than an equal share; 0: that share."""


@dataclass(frozen=True)
class Step:
    """From this value on a number has this colour."""

    at: float
    color: str


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    shows: str
    """What is drawn, in one sentence."""
    act: str
    """What to do about it, or when to."""
    queries: tuple[Query, ...]
    unit: Unit
    kind: Kind = Kind.TIME_SERIES
    width: int = 8
    height: int = 8
    empty: str = "No traffic"
    """What stands there if there is no series."""
    keys: tuple[Key, ...] = ()
    steps: tuple[Step, ...] = ()
    states: tuple[State, ...] = ()
    stacked: bool = False
    bars: bool = False
    greatest: float | None = None
    """Upper end of the axis."""
    repeat: str = ""
    """Variable, for each value of which the panel is drawn once."""
    colors: tuple[tuple[str, str], ...] = ()
    """Names of series, and their colours where those mean something."""
    opens_pod: bool = False
    """A click on a series opens the dashboard of its pod."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics, without what a histogram appends, in the order of the queries."""
        found = (name for query in self.queries for name in metric_names(query.expr))
        return tuple(dict.fromkeys(re.sub(r"_(bucket|sum|count)$", "", name) for name in found))

    @property
    def description(self) -> str:
        """What the panel's tooltip says."""
        names = ", ".join(f"`{name}`" for name in self.metrics)
        return f"{self.shows}\n\nMetric{'s' if len(self.metrics) > 1 else ''}: {names}\n\nWhat to do: {self.act}"


def metric_names(expr: str) -> Iterator[str]:
    """Yield the names of the metrics in an expression of a panel: each has a selector behind it."""
    return (found[0] for found in METRIC.finditer(expr))


@dataclass(frozen=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: tuple[Panel, ...]
    collapsed: bool = False


@dataclass(frozen=True)
class LabelValues:
    """A variable with the values of a label, several or all of them."""

    name: str
    title: str
    label: str
    series: str
    """Whose label it is; it may use variables before this one."""


@dataclass(frozen=True)
class CustomVariable:
    """A variable with one of some values."""

    name: str
    title: str
    values: tuple[str, ...]
    default: str


Variable = LabelValues | CustomVariable


@dataclass(frozen=True)
class Dashboard:
    """One dashboard."""

    uid: str
    title: str
    description: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        """All panels."""
        return tuple(panel for row in self.rows for panel in row.panels)


def stat(
    title: str,
    shows: str,
    act: str,
    expr: str,
    unit: Unit,
    *steps: Step,
    legend: str = "",
    empty: str = "No traffic",
    width: int = 3,
) -> Panel:
    """Return a panel with one large number, or one a series."""
    return Panel(
        title, shows, act, (Query(expr, legend),), unit, Kind.STAT, width=width, height=4, empty=empty, steps=steps
    )


def graph(
    title: str,
    shows: str,
    act: str,
    unit: Unit,
    *queries: Query,
    width: int = 8,
    empty: str = "No traffic",
    stacked: bool = False,
    bars: bool = False,
    greatest: float | None = None,
    colors: tuple[tuple[str, str], ...] = (),
    opens_pod: bool = False,
) -> Panel:
    """Return a panel with lines over time."""
    return Panel(
        title,
        shows,
        act,
        queries,
        unit,
        width=width,
        empty=empty,
        stacked=stacked,
        bars=bars,
        greatest=greatest,
        colors=colors,
        opens_pod=opens_pod,
    )

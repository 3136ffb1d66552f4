"""Places panels: from left to right in the order of the data, on the 24 columns that Grafana and Perses both have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from patio_observability.model import Panel, Row

COLUMNS = 24
HEADING = 1
"""Height of a row's heading."""


@dataclass(frozen=True)
class GridPosition:
    """Where a panel stands: columns from the left, lines from the top."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class PlacedRow:
    """A row, the line of its heading, and its panels with their places."""

    row: Row
    y: int
    panels: tuple[tuple[Panel, GridPosition], ...]


def place(rows: Iterable[Row]) -> Iterator[PlacedRow]:
    """Yield the rows with their places, from the top. A collapsed row takes up its heading only."""
    y = 0
    for row in rows:
        panels = tuple(_flow(row.panels, y + HEADING))
        yield PlacedRow(row, y, panels)
        below = max((place.y + place.height for _, place in panels), default=y + HEADING)
        y = y + HEADING if row.collapsed else below


def _flow(panels: Iterable[Panel], y: int) -> Iterator[tuple[Panel, GridPosition]]:
    x = tallest = 0
    for panel in panels:
        if x + panel.width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        yield panel, GridPosition(x, y, panel.width, panel.height)
        x += panel.width
        tallest = max(tallest, panel.height)

"""The pictures of the documentation: SVG, drawn from the texts in `drawings/`.

A drawing has boxes, with a place on a grid of pixels, and arrows between them. A picture has its own background and
two sets of colours, so it can be read on a light and on a dark page, here and where it is shown alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import yaml

SOURCES = Path(__file__).with_name("drawings")

STYLE = """\
  svg { color-scheme: light dark; }
  text { font: 14px ui-sans-serif, system-ui, sans-serif; fill: #1c2b33; }
  .title { font-weight: 600; }
  .note, .label { font-size: 12px; fill: #44555e; }
  .page { fill: #ffffff; stroke: #d5dde1; }
  .frame { fill: #f3f7f8; stroke: #8fa3ad; stroke-dasharray: 5 4; }
  .box { fill: #e3eef0; stroke: #5b7781; }
  .patio { fill: #c9ebe5; stroke: #00796b; }
  .arrow { stroke: #455a64; stroke-width: 1.5; fill: none; }
  .head { fill: #455a64; }
  .under { fill: #ffffff; }
  .inframe { fill: #f3f7f8; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4ecef; }
    .note, .label { fill: #b4c3ca; }
    .page { fill: #1b2327; stroke: #38464d; }
    .frame { fill: #222c31; stroke: #71858f; }
    .box { fill: #2d3a41; stroke: #87a0ab; }
    .patio { fill: #0d4a43; stroke: #4db6a8; }
    .arrow { stroke: #a9bac2; }
    .head { fill: #a9bac2; }
    .under { fill: #1b2327; }
    .inframe { fill: #222c31; }
  }"""

LINE = 17
SIDES = ("left", "right", "top", "bottom")


@dataclass(frozen=True)
class Box:
    """A rectangle with a title and some lines of text."""

    at: tuple[float, float]
    size: tuple[float, float]
    title: str = ""
    text: tuple[str, ...] = ()
    kind: str = "box"

    def side(self, name: str, shift: float = 0) -> tuple[float, float]:
        """Return the middle of a side, moved along it."""
        (x, y), (width, height) = self.at, self.size
        places = {
            "left": (x, y + height / 2 + shift),
            "right": (x + width, y + height / 2 + shift),
            "top": (x + width / 2 + shift, y),
            "bottom": (x + width / 2 + shift, y + height),
        }
        return places[name]


def write(source: Path) -> str:
    """Return the picture of a drawing."""
    drawing = yaml.safe_load(source.read_text())
    width, height = drawing["size"]
    boxes = {
        name: Box(
            tuple(box["at"]),
            tuple(box["size"]),
            box.get("title", ""),
            tuple(box.get("text", ())),
            box.get("kind", "box"),
        )
        for name, box in drawing["boxes"].items()
    }
    title = escape(drawing["title"])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' role="img" aria-labelledby="title">',
        f"<!-- Drawn by `make reference` from scripts/reference/drawings/{source.name}. Do not edit. -->",
        f'<title id="title">{title}</title>',
        f"<style>\n{STYLE}\n</style>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
        ' orient="auto-start-reverse">'
        '<path class="head" d="M0 0 10 5 0 10z"/></marker></defs>',
        f'<rect class="page" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
    ]
    for box in boxes.values():
        lines += _box(box)
    # Labels last, so that no other arrow runs through them.
    routes = [(arrow, _points(boxes, arrow)) for arrow in drawing.get("arrows", ())]
    lines += [_arrow(arrow, points) for arrow, points in routes]
    for arrow, points in routes:
        lines += _label(arrow, points)
    return "\n".join([*lines, "</svg>"]) + "\n"


def _box(box: Box) -> Iterator[str]:
    (x, y), (width, height) = box.at, box.size
    if box.kind != "text":
        yield f'<rect class="{box.kind}" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    if box.kind == "frame":
        yield _text(x + 12, y + 20, box.title, "title", "start")
        for number, line in enumerate(box.text):
            yield _text(x + 12, y + 20 + LINE * (number + 1), line, "note", "start")
        return
    rows = [(line, "title") for line in ([box.title] if box.title else [])] + [(line, "note") for line in box.text]
    top = y + height / 2 - LINE * (len(rows) - 1) / 2 + 5
    for number, (line, style) in enumerate(rows):
        yield _text(x + width / 2, top + LINE * number, line, style, "middle")


def _text(x: float, y: float, text: str, style: str, anchor: str) -> str:
    return f'<text class="{style}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>'


def _points(boxes: Mapping[str, Box], arrow: Mapping[str, Any]) -> list[tuple[float, float]]:
    """Return the ends and corners of an arrow."""
    start, end = boxes[arrow["from"]], boxes[arrow["to"]]
    leave, arrive = arrow.get("sides") or _sides(start, end)
    shift = arrow.get("shift", 0)
    first, last = start.side(leave, arrow.get("from-shift", shift)), end.side(arrive, arrow.get("to-shift", shift))
    return [first, *_corners(first, last, leave, arrive), last]


def _arrow(arrow: Mapping[str, Any], points: Sequence[tuple[float, float]]) -> str:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
    both = ' marker-start="url(#head)"' if arrow.get("both") else ""
    return f'<path class="arrow" d="{path}" marker-end="url(#head)"{both}/>'


def _label(arrow: Mapping[str, Any], points: Sequence[tuple[float, float]]) -> Iterator[str]:
    label = arrow.get("label")
    if not label:
        return
    rows: Sequence[str] = label if isinstance(label, list) else [label]
    x, y = _middle(points)
    dx, dy = arrow.get("label-at", (0, 0))
    x, y = x + dx, y + dy
    widest = max(len(row) for row in rows) * 6.3 + 8
    background = "inframe" if arrow.get("inside") else "under"
    yield (
        f'<rect class="{background}" x="{x - widest / 2:g}" y="{y - 8 - 7 * (len(rows) - 1):g}" width="{widest:g}"'
        f' height="{16 + 14 * (len(rows) - 1):g}"/>'
    )
    for number, row in enumerate(rows):
        yield _text(x, y + 4 - 7 * (len(rows) - 1) + 14 * number, row, "label", "middle")


def _sides(start: Box, end: Box) -> tuple[str, str]:
    if start.at[0] + start.size[0] <= end.at[0]:
        return "right", "left"
    if end.at[0] + end.size[0] <= start.at[0]:
        return "left", "right"
    return ("bottom", "top") if start.at[1] < end.at[1] else ("top", "bottom")


def _corners(
    first: tuple[float, float], last: tuple[float, float], leave: str, arrive: str
) -> list[tuple[float, float]]:
    across, up = {"left", "right"}, {"top", "bottom"}
    if leave in across and arrive in across:
        middle = (first[0] + last[0]) / 2
        return [] if first[1] == last[1] else [(middle, first[1]), (middle, last[1])]
    if leave in up and arrive in up:
        middle = (first[1] + last[1]) / 2
        return [] if first[0] == last[0] else [(first[0], middle), (last[0], middle)]
    return [(last[0], first[1])] if leave in across else [(first[0], last[1])]


def _middle(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the middle of the longest part of a path."""
    parts = itertools.pairwise(points)
    (ax, ay), (bx, by) = max(parts, key=lambda part: abs(part[0][0] - part[1][0]) + abs(part[0][1] - part[1][1]))
    return (ax + bx) / 2, (ay + by) / 2

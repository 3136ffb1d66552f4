"""An engine's metrics text with the standard families behind it. Pure, bytes to bytes.

`compile_rules` turns the tables into byte strings once; `rewrite` cuts the text at its TYPE lines, looks families up by
name, and renames whole blocks with `bytes.replace`, which costs a fraction of reading samples one by one. Values,
labels and the original text are never touched. What is not understood passes through. `scrape` calls it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from patio.engine.base import EngineKind
from patio.metrics.tables import HISTOGRAM, SOURCES, STANDARD, VOCABULARIES

_TYPE = b"\n# TYPE "
_LABEL = b"inference_engine="


@dataclass(frozen=True, slots=True)
class _Source:
    """One family of the engine that one standard family can be made from."""

    name: bytes
    renames: tuple[tuple[bytes, bytes], ...]
    """What a line begins with, and what it begins with after; the label is put in on the way."""
    sample: re.Pattern[bytes]
    """A whole line of the family: its suffix, its labels without braces, the rest."""


@dataclass(frozen=True, slots=True)
class _Row:
    name: bytes
    header: bytes
    histogram: bool
    sources: tuple[_Source, ...]
    beginning: bytes


@dataclass(frozen=True, slots=True)
class Rules:
    """The tables of one engine and some vocabularies, ready to be applied."""

    rows: tuple[_Row, ...]
    label: bytes


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The text to serve."""

    text: bytes
    clashes: tuple[str, ...] = ()
    """Names of ours that the engine has already: its own stays, ours gives way."""


def compile_rules(engine: EngineKind, prefixes: Iterable[str]) -> Rules:
    """Return the rules of an engine for the vocabularies asked for."""
    label = b'inference_engine="' + engine.value.encode() + b'"'
    rows: list[_Row] = []
    for prefix in prefixes:
        for family in STANDARD:
            sources = SOURCES[engine].get(family.name, ())
            if family.name not in VOCABULARIES[prefix] or not sources:
                continue
            for part in ("", "_created") if family.type == HISTOGRAM else ("",):
                # Prometheus' Python client gives a histogram's _created as a family of its own, a gauge.
                name = f"{prefix}:{family.name}{part}".encode()
                kind = "gauge" if part else family.type
                words = f"Unix time at which {family.name} began." if part else family.help
                header = f"# HELP {name.decode()} {words}\n# TYPE {name.decode()} {kind}".encode()
                histogram = kind == HISTOGRAM
                row_sources = tuple(_source((source + part).encode(), name, label, histogram) for source in sources)
                rows.append(_Row(name, header, histogram, row_sources, b"\n" + name))
    return Rules(tuple(rows), label)


def rewrite(text: bytes, rules: Rules, own: bytes = b"") -> Rewritten:
    """Return the text, then the standard families made of it, then the sidecar's own."""
    if text.rstrip(b"\n").endswith(b"# EOF"):
        # An engine that gives OpenMetrics unasked: its end mark would hide what follows.
        text = text.rstrip(b"\n").removesuffix(b"# EOF")
    end = b"" if not text or text.endswith(b"\n") else b"\n"
    families: dict[bytes, list[tuple[bytes, bytes]]] = {}
    for block in (b"\n" + text + end).split(_TYPE)[1:]:
        line, _, body = block.partition(b"\n")
        name, _, kind = line.partition(b" ")
        families.setdefault(name, []).append((kind.strip(), b"\n" + body))
    parts = [text, end]
    clashes: list[str] = []
    for row in rules.rows:
        if row.name in families:
            clashes.append(row.name.decode())
            continue
        for source in row.sources:
            blocks = families.get(source.name)
            if blocks is None:
                continue
            lines = b"".join(
                [_renamed(body, source, row, rules) for kind, body in blocks if (kind == b"histogram") == row.histogram]
            )
            if lines:
                parts += (row.header, lines, b"\n")
                break
    if own and any(name.startswith(b"patio:") for name in families):
        own, hidden = _without(own, families.keys())
        clashes += hidden
    parts.append(own)
    return Rewritten(b"".join(parts), tuple(clashes))


def _source(source: bytes, name: bytes, label: bytes, histogram: bool) -> _Source:
    suffixes = (b"_bucket", b"_sum", b"_count") if histogram else (b"",)
    renames = [(b"\n" + source + suffix + b"{", b"\n" + name + suffix + b"{" + label + b",") for suffix in suffixes]
    any_suffix = b"|".join(suffixes + ((b"_created",) if histogram else ()))
    labels = rb'(?:[^"{}]|"(?:[^"\\]|\\.)*")*'
    sample = re.compile(re.escape(source) + rb"(" + any_suffix + rb")[ \t]*(?:\{(" + labels + rb")\})?([ \t]+\S.*)")
    return _Source(source, tuple(renames), sample)


def _renamed(body: bytes, source: _Source, row: _Row, rules: Rules) -> bytes:
    """Return the samples of one block under their new name, each after a newline; empty when there are none."""
    comment = body.rfind(b"\n#")
    if comment != -1:
        # The HELP line of the next family ends nearly every block.
        body = body[:comment] if body.find(b"\n", comment + 1) in (-1, len(body) - 1) else body
    body = body.rstrip(b"\n")
    if _LABEL not in body and b"{}" not in body:
        renamed = body
        for old, new in source.renames:
            renamed = renamed.replace(old, new)
        if renamed.count(b"\n") == renamed.count(row.beginning):
            return renamed
    # Something unusual: other families' lines between ours, no labels, tabs, our label already there. Line by line.
    lines = []
    for line in body.split(b"\n"):
        match = source.sample.fullmatch(line)
        if match is None:
            continue
        suffix, labels, rest = match.groups()
        lines.append(b"\n" + row.name + suffix + b"{" + _labels(labels or b"", rules.label) + b"}" + rest)
    return b"".join(lines)


def _labels(labels: bytes, label: bytes) -> bytes:
    """Return the labels with ours in front, unless one of that name is there: nothing is overwritten."""
    bare = re.sub(rb'"(?:[^"\\]|\\.)*"', b"", labels)
    if re.search(rb"(?:^|,)\s*inference_engine\s*=", bare):
        return labels
    return label + b"," + labels if labels.strip(b" \t,") else label


def _without(own: bytes, taken: Iterable[bytes]) -> tuple[bytes, list[str]]:
    """Return the sidecar's own text without the families that the engine has, and their names."""
    hidden = []
    kept = []
    for block in (b"\n" + own).split(b"\n# HELP ")[1:]:
        name = block.partition(b" ")[0]
        if name in taken:
            hidden.append(name.decode())
        else:
            kept.append(b"# HELP " + block.rstrip(b"\n") + b"\n")
    return b"".join(kept), hidden

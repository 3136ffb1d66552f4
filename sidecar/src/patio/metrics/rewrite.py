"""An engine's metrics text with the standard families behind it. Pure, bytes to bytes.

`compile_rules` turns the tables into byte strings once; `rewrite` cuts the text at its TYPE lines, looks families up by
name, and renames whole blocks with `bytes.replace`, which costs a fraction of reading samples one by one. Only what is
more than a rename is read, by `derived`. Values, labels and the original text are never touched, and what is not
understood passes through. `scrape` calls it.

A large text comes in pieces that end at line ends (`cut`): no single operation on bytes is long, so that a thread
that rewrites lets other threads run.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from prometheus_client.utils import floatToGoString

from patio.metrics.derived import Derivation, Read, Sample, read
from patio.metrics.mappings import (
    COUNTER,
    GAUGE,
    HISTOGRAM,
    SOURCES,
    STANDARD,
    VOCABULARIES,
    Derived,
    Family,
    Source,
    Supplied,
)
from patio_protocol.engines import EngineKind

PIECE = 256 * 1024
"""Bytes of a text that are worked on at once; a few times the size of any engine's text that was recorded."""

_TYPE = b"\n# TYPE "
_EOF = b"# EOF"
_LABEL = b"inference_engine"
_OUR_LABEL = re.compile(rb"(?:^|,)\s*inference_engine\s*=")
_VALUE = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
# A line: name, labels, the rest. Possessive, so that a quote that never closes costs one pass.
_SAMPLE = re.compile(rb'([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:[ \t]*+\{((?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+)\})?+([ \t]++\S.*)')
_ODD_BRACE = re.compile(rb"\{(?![a-zA-Z_])")
_KINDS = {
    GAUGE: (b"gauge", b"untyped", b"unknown", b"info"),
    COUNTER: (b"counter", b"untyped"),
    HISTOGRAM: (b"histogram",),
}
"""Types that a source may have, by the type of what is made of it: a gauge may fall and must not pass for a counter."""


class Format(Enum):
    """The two text formats; the values are content types."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Source:
    """One family of the engine that one standard family can be made from."""

    families: tuple[bytes, ...]
    """What its TYPE line may call it."""
    begins: bytes
    """A newline and the name that lines begin with."""
    names: frozenset[bytes]
    """What a line may begin with: the name, with each suffix."""
    openings: tuple[bytes, ...]
    """What may follow the name: a suffix, and the brace of the labels."""
    derivation: Derivation | None
    """None: a rename."""
    line: re.Pattern[bytes]
    """A line as engines write it: labels, a value, and nothing else. It holds only if there is one `} ` in it."""


@dataclass(frozen=True, slots=True)
class _Row:
    family: str
    names: frozenset[bytes]
    """Every name that it would put into the text."""
    begins: bytes
    """A newline and the name, as before each of its samples."""
    header: bytes
    kinds: tuple[bytes, ...]
    """Types that a source may have."""
    sources: tuple[_Source, ...]
    supplied: bool
    """If no source has samples, those that the scraper supplies are taken."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The tables of one engine and some vocabularies, ready to be applied to texts of one format."""

    form: Format
    rows: tuple[_Row, ...]
    source_families: frozenset[bytes]
    """Families that any row may be made from."""
    label: bytes
    brace: bytes
    """What stands before the labels of a source, in ours."""
    prefixes: tuple[bytes, ...]
    own_names: re.Pattern[bytes]
    """A name under one of our prefixes, where a line of the text or its HELP or TYPE begins."""


@dataclass(frozen=True, slots=True)
class Rewritten:
    """The text to serve."""

    parts: tuple[bytes, ...]
    """Not joined: a large text is sent part by part."""
    conflicts: tuple[str, ...] = ()
    """Names of ours that the engine has already: its own stays, ours gives way."""

    @property
    def text(self) -> bytes:
        """All of it."""
        return b"".join(self.parts)


def compile_rules(engine: EngineKind, prefixes: Iterable[str], form: Format = Format.TEXT) -> Rules:
    """Return the rules of an engine for the vocabularies asked for."""
    vocabularies = tuple(dict.fromkeys(prefixes))
    label = b'inference_engine="' + engine.value.encode() + b'"'
    rows = [
        row
        for prefix in vocabularies
        for family in STANDARD
        if family.name in VOCABULARIES[prefix] and family.name in SOURCES[engine]
        for row in _rows(family, prefix, SOURCES[engine][family.name], form)
    ]
    own_prefixes = tuple(f"{prefix}:".encode() for prefix in dict.fromkeys((*vocabularies, "patio")))
    begins = rb"^[ \t]*(?:#[ \t]*(?:HELP|TYPE)[ \t]+)?((?:" + b"|".join(own_prefixes) + rb")[a-zA-Z0-9_:]*)"
    source_families = frozenset(family for row in rows for source in row.sources for family in source.families)
    return Rules(
        form, tuple(rows), source_families, label, b"{" + label + b",", own_prefixes, re.compile(begins, re.MULTILINE)
    )


def cut(text: bytes, size: int = PIECE) -> list[bytes]:
    """Return a text in pieces of about `size` bytes, each of which ends where a line does."""
    pieces = []
    start = 0
    while len(text) - start > size:
        end = text.rfind(b"\n", start, start + size) + 1 or text.find(b"\n", start + size) + 1
        if not end:
            break
        pieces.append(text[start:end])
        start = end
    if start < len(text) or not pieces:
        pieces.append(text[start:])
    return pieces


def rewrite(
    text: bytes | Sequence[bytes],
    rules: Rules,
    own_text: bytes = b"",
    supplied: Mapping[str, Sequence[Sample]] | None = None,
) -> Rewritten:
    """Return the text, then the standard families made of it, then the sidecar's own.

    `supplied` has the samples of families whose source is no metric, by the family's name without a prefix. In
    OpenMetrics the end mark moves to the end; in the other format it is a comment like any other.
    """
    pieces = [text] if isinstance(text, bytes) else [*text]
    if rules.form is Format.OPENMETRICS:
        pieces, own_text = _without_end(pieces), _without_end([own_text])[0]
    end = b"\n" if pieces[-1] and not pieces[-1].endswith(b"\n") else b""
    families: dict[bytes, list[bytes]] = {}
    source_families = rules.source_families
    name, kind = b"", b""
    used_names: frozenset[bytes] = frozenset()
    has_own_names = False
    for piece in pieces:
        # What is made of lines that end as on Windows ends as everywhere else; the original keeps its own.
        lines = piece.replace(b"\r\n", b"\n") if b"\r" in piece else piece
        # From the end (rsplit, rfind), CPython 3.11 searches bytes in half the time.
        blocks = (b"\n" + lines + (end if piece is pieces[-1] else b"")).rsplit(_TYPE)
        if name in source_families and blocks[0].strip():
            # What a later piece adds to the last block of the one before.
            families[name].append(kind + blocks[0])
        for block in blocks[1:]:
            name, _, rest = block.partition(b" ")
            if name in source_families:
                families.setdefault(name, []).append(rest)
                kind = rest
        kind = kind.partition(b"\n")[0]
        if any(lines.rfind(prefix) != -1 for prefix in rules.prefixes):
            has_own_names = True
            used_names |= frozenset(rules.own_names.findall(lines))
    parts = [*pieces, end]
    conflicts: list[str] = []
    for row in rules.rows:
        if not row.names.isdisjoint(used_names):
            conflicts.append(row.begins[1:].decode())
            continue
        made = _made(row, rules, families, has_own_names)
        if not made and row.supplied and supplied and (written := _written(row, rules, supplied.get(row.family, ()))):
            made = [written]
        if made:
            parts += (row.header, *made, b"\n")
    if used_names:
        own_text, hidden = _without(own_text, rules, used_names)
        conflicts += hidden
    parts.append(own_text)
    if rules.form is Format.OPENMETRICS:
        parts.append(_EOF + b"\n")
    return Rewritten(tuple(parts), tuple(conflicts))


def _rows(family: Family, prefix: str, sources: tuple[Source, ...], form: Format) -> Iterable[_Row]:
    name = f"{prefix}:{family.name}"
    typed = name.removesuffix("_total") if family.type == COUNTER and form is Format.OPENMETRICS else name
    suffixes: tuple[str, ...] = ("",)
    if family.type == HISTOGRAM:
        # OpenMetrics has a histogram's _created among its samples.
        suffixes = ("_bucket", "_sum", "_count") + (("_created",) if form is Format.OPENMETRICS else ())
    yield _row(family.name, name, typed, family.type, family.help, suffixes, sources)
    if family.type == HISTOGRAM and form is Format.TEXT:
        # Prometheus' Python client gives it as a family of its own, a gauge.
        name, message = f"{name}_created", f"Unix time at which {family.name} began."
        created = tuple(f"{source}_created" for source in sources)
        yield _row(f"{family.name}_created", name, name, GAUGE, message, ("",), created)


def _row(
    family: str,
    name: str,
    typed: str,
    kind: str,
    help_text: str,
    suffixes: tuple[str, ...],
    sources: tuple[Source, ...],
) -> _Row:
    names = frozenset(each.encode() for each in (name, typed, *(name + suffix for suffix in suffixes)))
    header = f"# HELP {typed} {help_text}\n# TYPE {typed} {kind}".encode()
    compiled = tuple(_source(source, suffixes) for source in sources if not isinstance(source, Supplied))
    supplied = any(isinstance(source, Supplied) for source in sources)
    return _Row(family, names, b"\n" + name.encode(), header, _KINDS[kind], compiled, supplied)


def _source(source: str | Derived, suffixes: tuple[str, ...]) -> _Source:
    old = (source.family if isinstance(source, Derived) else source).encode()
    names = frozenset(old + suffix.encode() for suffix in suffixes)
    openings = tuple(suffix.encode() + b"{" for suffix in suffixes)
    # In OpenMetrics, and in text that people write, TYPE lines are without _total and _info.
    families = tuple(dict.fromkeys((old, old.removesuffix(b"_total"), old.removesuffix(b"_info"))))
    line = re.compile(b"\n" + re.escape(old) + rb"\{([^\n]*)\} ([-+]?[0-9.]++(?:e[-+]?\d++)?)(?=\n|\Z)")
    derivation = source.derivation if isinstance(source, Derived) else None
    return _Source(families, b"\n" + old, names, openings, derivation, line)


def _made(row: _Row, rules: Rules, families: Mapping[bytes, list[bytes]], has_own_names: bool) -> list[bytes]:
    """Return the row's samples from the first source that has any, each after a newline; nothing when none has."""
    for source in row.sources:
        for family in source.families:
            made: list[bytes] = []
            for block in families.get(family, ()):
                stop = block.find(b"\n")
                if block[:stop].strip() in row.kinds:
                    body = block[stop:]
                    made.append(
                        _renamed(body, source, row, rules, has_own_names) if source.derivation is None else body
                    )
            if source.derivation is not None:
                made = [_derived(made, source, source.derivation, row, rules)]
            if any(made):
                return made
    return []


def _derived(bodies: Iterable[bytes], source: _Source, derivation: Derivation, row: _Row, rules: Rules) -> bytes:
    """Return what is made of the samples of one family, each after a newline."""
    return _written(row, rules, derivation([sample for body in bodies for sample in _samples(body, source)]))


def _samples(body: bytes, source: _Source) -> list[Read]:
    """Read the samples of a family."""
    lines = _without_comment(body)
    found = source.line.findall(lines)
    if len(found) == lines.count(b"\n") == lines.count(b"} "):
        with contextlib.suppress(ValueError):
            return [(labels, float(value)) for labels, value in found]
    samples = [read(labels, rest) for _, labels, rest in _cut(body, source)]
    return [sample for sample in samples if sample is not None]


def _renamed(body: bytes, source: _Source, row: _Row, rules: Rules, has_own_names: bool) -> bytes:
    """Return the samples of one block under their new name, each after a newline; empty when there are none."""
    body = _without_comment(body)
    if not has_own_names and body.rfind(_LABEL) == -1:
        # Where each line has one brace, right behind a name of ours and before a letter, all is done at once.
        lines = body.rsplit(source.begins)
        named = sum([line.startswith(source.openings) for line in lines])
        usual = named == len(lines) - 1 == body.count(b"\n") == body.count(b"{")
        if usual and not lines[0] and _ODD_BRACE.search(body) is None:
            return row.begins.join(lines).replace(b"{", rules.brace)
    # Something unusual: other families' lines between ours, no labels, tabs, our label already there. Line by line.
    return b"".join(
        row.begins + suffix + b"{" + _labels(labels, rules.label) + b"}" + rest
        for suffix, labels, rest in _cut(body, source)
    )


def _without_comment(body: bytes) -> bytes:
    """Return a block without the line that ends nearly every one: the HELP of the next family."""
    comment = body.rfind(b"\n#")
    if comment != -1 and body.find(b"\n", comment + 1) in (-1, len(body) - 1):
        body = body[:comment]
    return body.rstrip(b"\n")


def _cut(body: bytes, source: _Source) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Take the lines of a family apart: suffix of the name, what is between the braces, what follows them."""
    for line in body.split(b"\n"):
        match = _SAMPLE.fullmatch(line.strip(b" \t"))
        if match and match[1] in source.names:
            yield match[1][len(source.begins) - 1 :], match[2] or b"", match[3]


def _written(row: _Row, rules: Rules, samples: Iterable[Sample]) -> bytes:
    """Return samples as lines, numbers as Prometheus' Python client prints them in the engines."""
    return b"".join(
        row.begins
        + b"{"
        + _labels(b",".join(name + b'="' + value + b'"' for name, value in sample.labels), rules.label)
        + b"} "
        + _number(sample.value)
        for sample in samples
    )


def _number(value: float) -> bytes:
    printed: str = floatToGoString(value)  # type: ignore[no-untyped-call]  # prometheus-client 0.26 has no type there
    return printed.encode()


def _labels(labels: bytes, label: bytes) -> bytes:
    """Return the labels with ours in front, unless one of that name is there: nothing is overwritten."""
    if _LABEL in labels and _OUR_LABEL.search(_VALUE.sub(b"", labels)):
        return labels
    labels = labels.lstrip(b" \t,")
    return label + b"," + labels if labels else label


def _without(own_text: bytes, rules: Rules, used_names: frozenset[bytes]) -> tuple[bytes, list[str]]:
    """Return the sidecar's own text without the families that the engine has, and their names."""
    hidden = []
    kept = []
    for block in (b"\n" + own_text).split(b"\n# HELP ")[1:]:
        family = b"# HELP " + block.rstrip(b"\n") + b"\n"
        if used_names.isdisjoint(rules.own_names.findall(family)):
            kept.append(family)
        else:
            hidden.append(block.partition(b" ")[0].decode())
    return b"".join(kept), hidden


def _without_end(pieces: Sequence[bytes]) -> list[bytes]:
    """Return an OpenMetrics text without its end mark, which would hide what follows."""
    last = max((number for number, piece in enumerate(pieces) if piece.strip()), default=0)
    stripped = pieces[last].rstrip()
    if stripped.endswith(b"\n" + _EOF) or stripped == _EOF:
        return [*pieces[:last], stripped.removesuffix(_EOF)]
    return [*pieces]

"""Hostile metric texts, made from a seed: what engines print, put together wrongly, bent and broken.

Half of each text is cut from the recordings, half is made up from the names, types, labels and values that the
rewriting looks for and those that resemble them; then bytes and lines are moved, doubled, dropped and replaced. The
same `random.Random` gives the same texts everywhere. `fuzz` uses them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES, Derived

RECORDINGS = Path(__file__).parents[1] / "tests/doubles/engine/src/engine_double/recordings"
FILES = ("vllm/metrics-0.32.0.txt", "sglang/metrics_busy.txt", "sglang/metrics_idle.txt")
LONGEST_FAMILY = 8

KINDS: tuple[str, ...] = (
    "gauge",
    "counter",
    "histogram",
    "summary",
    "untyped",
    "unknown",
    "info",
    "stateset",
    "",
    "Gauge",
    "gauge x",
)
SUFFIXES = ("", "", "", "_bucket", "_sum", "_count", "_created", "_total", "_by_reason", "_info")
LABELS: tuple[str, ...] = (
    "engine",
    "model_name",
    "le",
    "cache_source",
    "quantile",
    "inference_engine",
    "max_lora",
    "num_gpu_blocks",
)
LABELS += ("running_lora_adapters", "block_size", "kv_cache_size_tokens", "a", "_", "__name__", "7", "")
TEXTS: tuple[str, ...] = (
    "",
    "x",
    "0",
    "16",
    "None",
    "+Inf",
    "a,b",
    "}",
    "{",
    "{}",
    '\\"',
    "\\\\",
    "\\n",
    "\\",
    '"',
    ",",
    "=",
    "# EOF",
)
TEXTS += (
    "/v1/{model:path}",
    'inference_engine=\\"x\\"',
    "\u00e9\u4e2d\U0001f600",
    " ",
    "\t",
    "patio:engine_up",
    "9" * 25,
)
VALUES: tuple[str, ...] = (
    "0",
    "1.0",
    "-1",
    "NaN",
    "+Inf",
    "-Inf",
    "1.7952076635155146e+09",
    "1e999",
    "0x1p3",
    "1_0",
    "",
    "abc",
    "--1",
)
VALUES += ("1 1700000000000", "1 -1", '1.0 # {a="b"} 2.0 3.0', "1 2 3", "infinity", "1.0\t5")


def hostile(rng: random.Random, families: Sequence[bytes], end: bytes = b"") -> bytes:
    """Return one text. `families` are those of `recorded`, `end` what a whole text ends with.

    Every other text is only strange and not broken, so that many of them are still valid.
    """
    wild = rng.random() < 0.5
    made_up = 0.5 if wild else 0.1
    parts = [_made_up(rng) if rng.random() < made_up else rng.choice(families) for _ in range(rng.randint(0, 8))]
    text = b"".join(parts) + end
    for _ in range(rng.choice((0, 1, 2, 5) if wild else (0, 0, 0, 1))):
        text = rng.choice(MUTATIONS)(text, rng)
    return text


def recorded(openmetrics: bool = False) -> tuple[bytes, ...]:
    """Return the families of the recordings, HELP and TYPE and the first of their samples; sources are in it thrice.

    OpenMetrics was not recorded: that is what prometheus_client makes of the recordings.
    """
    found = []
    sources = {_name(source) for table in SOURCES.values() for row in table.values() for source in row}
    sources |= {name.removesuffix("_total") for name in sources}
    for file in FILES:
        text = (RECORDINGS / file).read_bytes()
        for block in (b"\n" + (_openmetrics(text) if openmetrics else text)).split(b"\n# HELP ")[1:]:
            lines = block.split(b"\n")
            # The end of a histogram matters as much as its beginning.
            kept = lines if len(lines) <= LONGEST_FAMILY else lines[: LONGEST_FAMILY - 2] + lines[-2:]
            family = b"# HELP " + b"\n".join(line for line in kept if line) + b"\n"
            found += [family] * (3 if block.split(b" ", 1)[0].decode() in sources else 1)
    return tuple(found)


class _Families:
    """What an exposition asks for."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _openmetrics(text: bytes) -> bytes:
    families = [family for family in text_string_to_metric_families(text.decode()) if family.type != "unknown"]
    written: bytes = generate_latest(_Families(families), escaping="allow-utf-8")  # type: ignore[no-untyped-call]
    return written.removesuffix(b"# EOF\n")


def _name(source: object) -> str:
    return source.family if isinstance(source, Derived) else str(source)


NAMES = tuple(sorted({_name(source) for table in SOURCES.values() for row in table.values() for source in row}))
OURS = (
    *(f"{prefix}:{name}" for prefix in VOCABULARIES for name in VOCABULARIES[prefix]),
    "patio:engine_up",
    "patio:build_info",
    "patio:lora_operation_duration_seconds",
    f"patio:{STANDARD[0].name}_twice",
)


def _made_up(rng: random.Random) -> bytes:
    """Return a family that no engine has in this way."""
    name = rng.choice(OURS if rng.random() < 0.1 else NAMES) + (rng.choice(SUFFIXES) if rng.random() < 0.2 else "")
    kind = rng.choice(KINDS) if rng.random() < 0.3 else rng.choice(KINDS[:3])
    lines = []
    if rng.random() < 0.7:
        lines.append(f"# HELP {name} {rng.choice(('', 'x', rng.choice(NAMES) + '{}', rng.choice(TEXTS)))}")
    if rng.random() < 0.9:
        lines.append(f"# TYPE {name}{rng.choice((' ', ' ', ' ', '  ', chr(9)))}{kind}")
    ends = SUFFIXES[3:7] if kind == "histogram" else SUFFIXES[:4]
    for _ in range(rng.randint(0, 5)):
        lines.append(f"{name}{rng.choice(ends)}{_labels(rng)}{rng.choice((' ', ' ', ' ', chr(9), ''))}{_value(rng)}")
    if rng.random() < 0.1:
        rng.shuffle(lines)
    return ("\n".join(lines) + "\n").encode()


def _labels(rng: random.Random) -> str:
    names = rng.sample(LABELS[:9], rng.randint(0, 4)) if rng.random() < 0.8 else rng.choices(LABELS, k=2)
    inside = ",".join(
        f'{name}{"=" if rng.random() < 0.95 else " = "}"{rng.choice(TEXTS[:7] if rng.random() < 0.5 else TEXTS)}"'
        for name in names
    )
    if rng.random() < 0.1:
        inside = rng.choice((inside + ",", "," + inside, f" {inside} ", inside + '"', inside[:-1]))
    return f"{{{inside}}}" if inside or rng.random() < 0.3 else ""


def _value(rng: random.Random) -> str:
    return rng.choice(VALUES[:7]) if rng.random() < 0.7 else rng.choice(VALUES)


def _cut(text: bytes, rng: random.Random) -> tuple[int, int]:
    begin = rng.randint(0, len(text))
    return begin, min(begin + rng.choice((1, 1, 2, 8, 40)), len(text))


def _drop_bytes(text: bytes, rng: random.Random) -> bytes:
    begin, end = _cut(text, rng)
    return text[:begin] + text[end:]


def _put_bytes(text: bytes, rng: random.Random) -> bytes:
    begin, _ = _cut(text, rng)
    what = rng.choice((b"{", b"}", b'"', b"\\", b"\n", b"\r", b"#", b" ", b"\0", b"\xff", b"# EOF\n", b"\n# TYPE "))
    return text[:begin] + what + text[begin:]


def _double_bytes(text: bytes, rng: random.Random) -> bytes:
    begin, end = _cut(text, rng)
    return text[:end] + text[begin:end] + text[end:]


def _end(text: bytes, rng: random.Random) -> bytes:
    return text[: rng.randint(0, len(text))] if rng.random() < 0.5 else text.rstrip(b"\n")


def _windows(text: bytes, rng: random.Random) -> bytes:
    return text.replace(b"\n", b"\r\n", rng.choice((-1, 3)))


def _eof(text: bytes, rng: random.Random) -> bytes:
    return text + rng.choice((b"# EOF\n", b"# EOF", b"# EOF\n\n", b"# EOF\nx 1\n"))


def _lines(text: bytes, rng: random.Random) -> bytes:
    lines = text.split(b"\n")
    first, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    what = rng.choice(("swap", "double", "drop", "indent", "blank", "comment"))
    if what == "swap":
        lines[first], lines[other] = lines[other], lines[first]
    elif what == "double":
        lines.insert(other, lines[first])
    elif what == "drop":
        del lines[first]
    elif what == "indent":
        lines[first] = b"  " + lines[first] + b" "
    else:
        lines.insert(first, b"" if what == "blank" else b"# a comment about vllm:num_requests_running{} 1")
    return b"\n".join(lines)


def _swap_names(text: bytes, rng: random.Random) -> bytes:
    return text.replace(rng.choice(NAMES).encode(), rng.choice(NAMES + OURS).encode())


MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _drop_bytes,
    _put_bytes,
    _double_bytes,
    _end,
    _windows,
    _eof,
    _lines,
    _lines,
    _swap_names,
)

"""`make fuzz`: what the rewriting must do with any text whatsoever, tried on many hostile ones.

`broken_law` says which law a text breaks, if any; the quick tests use it too, on fewer texts. The command prints the
first text that breaks one, with the seed that makes it again, and ends with 1.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families as lax

from benchmarks.hostile import hostile, recorded
from patio.adapters.executor import Attempt
from patio.adapters.metrics import AdapterMetrics
from patio.metrics.derived import Sample
from patio.metrics.mappings import SOURCES, STANDARD, VOCABULARIES
from patio.metrics.rewrite import Format, Rules, compile_rules, rewrite
from patio.metrics.self_metrics import SelfMetrics
from patio_protocol.adapters import AdapterReport, AdapterState
from patio_protocol.engines import EngineKind

ASKED = {"model_context_tokens": [Sample(((b"model_name", b"tiny"),), 512)]}
_OURS = re.compile(rb"^[ \t]*(?:#[ \t]*(HELP|TYPE)[ \t]+)?((?:patio|matrixinfer|kthena):[a-zA-Z0-9_:]*)", re.MULTILINE)
_LINE = re.compile(rb'([a-z]+:[a-zA-Z0-9_:]+)[ \t]*(?:\{(?:[^"{}]|"(?:[^"\\]|\\.)*")*\})?[ \t]+(\S.*)', re.DOTALL)


@dataclass(frozen=True)
class Case:
    """One way of rewriting."""

    engine: EngineKind
    rules: Rules
    own: bytes


def cases() -> tuple[Case, ...]:
    """Return every engine with one and with all vocabularies, in both formats."""
    registry = CollectorRegistry()
    report = AdapterReport(lora_name="a", lora_path="/a", state=AdapterState.LOADED, reason="Loaded", since=0.0)
    AdapterMetrics(registry, lambda: (report,)).count_attempt(Attempt("load", "ok", "Loaded", 0.5))
    own = SelfMetrics(registry, "1", "vllm", "")
    return tuple(
        Case(engine, compile_rules(engine, prefixes, form), own.text(form))
        for form in Format
        for engine in EngineKind
        for prefixes in (("patio",), tuple(VOCABULARIES))
    )


@dataclass
class Counted:
    """How many texts there were, and how many of them the official parser takes."""

    texts: int = 0
    parsed: int = 0


def broken_law(text: bytes, case: Case, counted: Counted) -> str | None:
    """Return the law that rewriting this text breaks, in words."""
    rules = case.rules
    original = text
    if rules.form is Format.OPENMETRICS and re.search(rb"(?:\A|\n)# EOF\s*\Z", text):
        original = text.rstrip().removesuffix(b"# EOF")
    out = rewrite(text, rules, case.own, ASKED).text
    if not out.startswith(original):
        return "the original is not preserved"
    added = out[len(original) :]
    if rules.form is Format.OPENMETRICS and not (out.endswith(b"# EOF\n") and (b"\n" + added).count(b"\n# EOF\n") == 1):
        return "the end mark is not at the end"
    headers = [(word, name) for word, name in _OURS.findall(added) if word]
    if len(set(headers)) != len(headers):
        return f"a header is there twice: {max(headers, key=headers.count)}"
    taken = {name for _, name in _OURS.findall(original)}
    twice = taken & {name for _, name in _OURS.findall(added)}
    if twice:
        return f"the engine's own name is written again: {sorted(twice)}"
    return _foreign_value(original, added, case) or _unparsable(text, out, case, counted)


def _foreign_value(original: bytes, added: bytes, case: Case) -> str | None:
    """Every renamed sample is a line of the engine's: what follows the labels is the same, byte for byte."""
    engine_values = {(match[1], match[2]) for match in map(_LINE.match, _stripped(original)) if match}
    renames = {
        row.name: [source for source in SOURCES[case.engine].get(row.name, ()) if isinstance(source, str)]
        for row in STANDARD
    }
    for line in _stripped(added.replace(case.own.removesuffix(b"# EOF\n"), b"")):
        match = _LINE.match(line)
        if match is None or line.startswith(b"#"):
            continue
        standard = match[1].decode().partition(":")[2]
        for row, sources in renames.items():
            suffix = standard.removeprefix(row)
            if sources and standard.startswith(row) and suffix in ("", "_bucket", "_sum", "_count", "_created"):
                if row == "model_context_tokens" and match[2] == b"512.0":
                    break
                if not any((f"{source}{suffix}".encode(), match[2]) in engine_values for source in sources):
                    return f"a value that the engine did not give: {line.decode(errors='replace')}"
    return None


def _stripped(text: bytes) -> Iterable[bytes]:
    return (line.strip(b" \t\r") for line in text.split(b"\n"))


def _unparsable(text: bytes, out: bytes, case: Case, counted: Counted) -> str | None:
    """What the official parser takes as it comes, it takes rewritten, and reads the same in it."""
    parse: Callable[[str], Iterable[Metric]] = lax if case.rules.form is Format.TEXT else strict
    counted.texts += 1
    before = _parsed(parse, text)
    if before is None:
        return None
    counted.parsed += 1
    after = _parsed(parse, out)
    if after is None:
        return "it could be parsed, and rewritten it cannot"
    if after[: len(before)] != before:
        return "the parser reads the original in another way"
    return None


def _parsed(parse: Callable[[str], Iterable[Metric]], text: bytes) -> list[str] | None:
    """Return what the parser reads, in words, since NaN is not NaN; None if it reads nothing."""
    try:
        return [f"{sample}" for family in parse(text.decode()) for sample in family.samples]
    # The parser raises whatever its string handling does.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError):
        return None


def inputs(number: int, seed: int) -> Iterator[tuple[int, bytes, Case]]:
    """Return so many texts, each with the way in which it is to be rewritten."""
    ways = cases()
    families = {form: recorded(form is Format.OPENMETRICS) for form in Format}
    for index in range(number):
        case = ways[index % len(ways)]
        end = b"# EOF\n" if case.rules.form is Format.OPENMETRICS else b""
        # A generator for each, so that one text can be made again without those before it.
        yield index, hostile(random.Random(f"{seed}/{index}"), families[case.rules.form], end), case


def main() -> int:
    """Try many texts; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=4)
    arguments = parser.parse_args()
    counted = Counted()
    began = time.monotonic()
    for number, text, case in inputs(arguments.inputs, arguments.seed):
        broken = broken_law(text, case, counted)
        if broken is not None:
            print(f"input {number} of seed {arguments.seed}, {case.engine}, {case.rules.form.name}: {broken}\n{text!r}")
            return 1
    elapsed = time.monotonic() - began
    print(
        f"{counted.texts:,} inputs, {counted.parsed:,} of them valid, no law broken, {elapsed:.0f} s, "
        f"seed {arguments.seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

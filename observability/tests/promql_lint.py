"""Rules for expressions: each function yields what is wrong with one, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from metrics_reference import EXTERNAL, PART, kind_of, metrics

NAME = re.compile(
    r"(?<![\w:$])(?:(?:patio|vllm|sglang):\w+|patio_operator_\w+|process_\w+|container_\w+|kube_\w+|DCGM_\w+|ALERTS)\b"
)
LABEL = re.compile(r"(\w+)\s*(=~|!~|!=|=)\s*\"((?:[^\"\\]|\\.)*)\"")


def without_strings(expr: str) -> str:
    """Return the expression with the content of strings blanked out, so that nothing in them looks like PromQL."""
    return re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: '"' + "_" * (len(found[0]) - 2) + '"', expr)


def names(expr: str) -> list[str]:
    """Return the names of the series in an expression. Labels before them are not names."""
    bare = re.sub(r"\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", " ", without_strings(expr))
    bare = re.sub(r"\{[^{}]*\}", "{}", bare)
    return NAME.findall(bare)


def unknown_names(expr: str) -> Iterator[str]:
    """Yield the names that no product has."""
    for name in names(expr):
        if name not in EXTERNAL and name not in metrics() and PART.sub("", name) not in metrics():
            yield name


def rates_of_gauges(expr: str) -> Iterator[str]:
    """Yield what is taken the rate of, and is no counter."""
    for name in re.findall(r"\b(?:rate|increase|irate)\(\s*([\w:]+)", without_strings(expr)):
        if (EXTERNAL.get(name) or kind_of(name)) != "counter":
            yield name


def counters_without_rate(expr: str) -> Iterator[str]:
    """Yield the counters that stand there with their total since the program's start."""
    bare = re.sub(r"\b(?:rate|increase)\(\s*[\w:]+(?:\{[^{}]*\})?\[", "rate([", without_strings(expr))
    for name in names(bare):
        if (EXTERNAL.get(name) or kind_of(name)) == "counter":
            yield name


def mixed_quantiles(expr: str) -> Iterator[str]:
    """Yield the labels of quantiles that would mix the buckets of two engines."""
    for by, series in re.findall(r"histogram_quantile\([\d.]+,\s*sum by \(([^)]*)\) \(rate\(([\w:]+)", expr):
        labels = {label.strip() for label in by.split(",")}
        family = metrics()[PART.sub("", series)]
        if "le" not in labels or (family.is_of_the_engine and "inference_engine" not in labels):
            yield by
    if expr.count("histogram_quantile(") != len(re.findall(r"histogram_quantile\([\d.]+,\s*sum by", expr)):
        yield "a quantile in another form than histogram_quantile(q, sum by (...) (rate(...)))"


def unguarded_divisions(expr: str) -> Iterator[str]:
    """Yield the divisors that can be 0. A constant cannot; everything else ends with `> 0` in parentheses."""
    bare = without_strings(expr)
    for found in re.finditer(r"/(?!/)\s*(?:on|ignoring)?", bare):
        rest = bare[found.end() :].lstrip()
        if re.match(r"[\d.]+", rest):
            continue
        if not rest.startswith("(") or not re.search(r"> 0\s*$", inside(rest)):
            yield rest[:60]


def inside(text: str) -> str:
    """Return what is between a parenthesis and the one that closes it."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:index]
    raise AssertionError(f"unclosed: {text}")


def matchers(expr: str) -> Iterator[tuple[str, str]]:
    """Yield label and value of every matcher, each alternative of a regular expression by itself."""
    for label, _, value in LABEL.findall(expr):
        if "$" not in value and label not in ("alertname", "le", "container"):
            for alternative in value.split("|"):
                yield label, alternative

"""Standard families that are more than a rename: numbers that stand in labels, and sums over a label. Pure.

`mappings` names these functions beside the family that each is made from; `rewrite` passes them that family's samples
and writes down what they return. A sample that they cannot read gives nothing, never a guess and never a zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

Labels = tuple[tuple[bytes, bytes], ...]
"""Names and values in the order of the text; values as they stand there, escapes included."""


Read = tuple[bytes, float]
"""One series of the engine: what is between the braces, which only those take apart who need it, and the value."""


class Sample(NamedTuple):
    """One series of a standard family."""

    labels: Labels
    value: float


Derivation = Callable[[Sequence[Read]], Iterable[Sample]]
"""From the samples of a source, those of a standard family."""

_OF_THE_ENGINE = (b"engine", b"model_name")
"""Labels that say whose configuration it is; the others are the configuration."""
_LORA = (b"max_lora", b"running_lora_adapters", b"waiting_lora_adapters")
_OF_HTTP = (b"handler", b"endpoint", b"method", b"status", b"status_code")
"""Labels of HTTP responses: the first name of each is vLLM's, from prometheus-fastapi-instrumentator."""
_NOT_OF_USERS = frozenset(
    (
        *(b"/health", b"/health_generate", b"/ready", b"/ping", b"/metrics", b"/version", b"/load", b"/"),
        *(b"/model_info", b"/get_model_info", b"/server_info", b"/get_server_info", b"/v1/loads", b"/get_load"),
        *(b"/v1/models", b"/v1/models/{model:path}"),
        *(b"/load_lora_adapter", b"/unload_lora_adapter", b"/v1/load_lora_adapter", b"/v1/unload_lora_adapter"),
    )
)
"""Paths that probes, Prometheus, sidecar and routers ask."""
_CLASSES = (b"2xx", b"4xx", b"5xx")
"""Classes that have a series from the engine's first response on, so that `increase()` sees the first error."""
_REASONS = frozenset((b"capacity", b"deferred"))
"""Why requests wait, in vLLM 0.32."""
_LONGEST_CACHED = 2048
"""Bytes of labels that are remembered."""
_NAMES = re.compile(rb",(?! )")
"""Between two names: vLLM joins them by a comma alone, so one before a space is part of a name."""
_STATUS = re.compile(rb"[1-5](?:xx|\d\d)")
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"')


def read(labels: bytes, rest: bytes) -> Read | None:
    """Return a sample from what stands between its braces and what follows; None if its value is no number."""
    value = rest.split(None, 1)[0]
    try:
        # Python alone takes 1_000 for a number.
        return None if b"_" in value else (labels, float(value))
    except ValueError:
        return None


def quoted(value: str) -> bytes:
    """Return a label's value as it stands in a text."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n").encode()


def kv_cache_tokens(samples: Sequence[Read]) -> Iterable[Sample]:
    """Tokens that fit in vLLM's KV cache: its own number if it has one, else blocks times their size."""
    by_engine: dict[Labels, Sample] = {}
    for text, _ in samples:
        labels = _parse_labels(text)
        config = dict(labels)
        tokens = _integer(config.get(b"kv_cache_size_tokens"))
        if tokens is None:
            blocks, size = _integer(config.get(b"num_gpu_blocks")), _integer(config.get(b"block_size"))
            tokens = None if blocks is None or size is None else blocks * size
        if tokens is not None:
            # Blocks are "None" until the cache is laid out, and both series may stay: the later one counts.
            kept = tuple(label for label in labels if label[0] in _OF_THE_ENGINE)
            by_engine[_key(kept)] = Sample(kept, tokens)
    return by_engine.values()


def lora_slots(samples: Sequence[Read]) -> Iterable[Sample]:
    """Adapters that fit in one batch of vLLM."""
    for labels, config in _latest_lora(samples):
        slots = _integer(config.get(b"max_lora"))
        if slots is not None:
            yield Sample(labels, slots)


def lora_slots_used(samples: Sequence[Read]) -> Iterable[Sample]:
    """Adapters in vLLM's batch now: the names in one label, separated by commas."""
    for labels, config in _latest_lora(samples):
        names = config.get(b"running_lora_adapters")
        if names is not None:
            yield Sample(labels, sum(1 for name in _NAMES.split(names) if name.strip()))


def sum_over(label: bytes) -> Derivation:
    """Return the sum over one label; all others stay."""

    def summed(samples: Sequence[Read]) -> Iterable[Sample]:
        sums: dict[Labels, Sample] = {}
        for text, value in samples:
            kept = tuple(each for each in _parse_labels(text) if each[0] != label)
            previous = sums.get(_key(kept))
            sums[_key(kept)] = (
                Sample(kept, value) if previous is None else Sample(previous.labels, previous.value + value)
            )
        return sums.values()

    return summed


def http_responses(samples: Sequence[Read]) -> Iterable[Sample]:
    """Sum responses over paths and methods, by class of status; what only machines ask is left out."""
    sums: dict[tuple[Labels, bytes], float] = {}
    for text, value in samples:
        response = _response_cached(text) if len(text) <= _LONGEST_CACHED else _response(text)
        sums[response] = sums.get(response, 0.0) + value
    for kept in dict.fromkeys(kept for kept, _ in sums):
        for status in _CLASSES:
            yield Sample((*kept, (b"class", status)), sums.pop((kept, status), 0.0))
    for (kept, status), value in sums.items():
        if status:
            yield Sample((*kept, (b"class", status)), value)


def _response(text: bytes) -> tuple[Labels, bytes]:
    """Return the labels that stay, and the class; an empty one for a response that does not count."""
    labels = _parsed(text)
    values = dict(labels)
    kept = _key(tuple(label for label in labels if label[0] not in _OF_HTTP))
    path = values.get(b"handler", values.get(b"endpoint", b""))
    status = values.get(b"status", values.get(b"status_code", b""))
    counts = path not in _NOT_OF_USERS and _STATUS.fullmatch(status) is not None
    return kept, status[:1] + b"xx" if counts else b""


def waiting_by_reason(samples: Sequence[Read]) -> Iterable[Sample]:
    """Keep the reasons that are known; the others are one."""
    sums: dict[Labels, float] = {}
    for text, value in samples:
        labels = tuple(
            (name, b"other") if name == b"reason" and word not in _REASONS else (name, word)
            for name, word in _parse_labels(text)
        )
        sums[_key(labels)] = sums.get(_key(labels), 0.0) + value
    return [Sample(labels, value) for labels, value in sums.items()]


def _latest_lora(samples: Sequence[Read]) -> Iterable[tuple[Labels, dict[bytes, bytes]]]:
    """Return the series that is true, one for each engine: vLLM keeps all it ever had, each valued with its time."""
    seen: set[Labels] = set()
    for text, _ in sorted(samples, key=_age):
        labels = _parse_labels(text)
        kept = tuple(label for label in labels if label[0] not in _LORA)
        if _key(kept) not in seen:
            seen.add(_key(kept))
            yield kept, dict(labels)
        if not kept:
            # One engine, and there may be thousands of series.
            return


def _age(sample: Read) -> float:
    """Order by value, greatest first; what is no number comes last."""
    return -sample[1] if sample[1] == sample[1] else math.inf


def _parse_labels(labels: bytes) -> Labels:
    return _parsed_cached(labels) if len(labels) <= _LONGEST_CACHED else _parsed(labels)


def _parsed(labels: bytes) -> Labels:
    return tuple(_LABEL.findall(labels))


# The same series come with every scrape; what is kept of them is bounded.
_parsed_cached = lru_cache(maxsize=64)(_parsed)
_response_cached = lru_cache(maxsize=512)(_response)


def _key(labels: Labels) -> Labels:
    """Labels in one order: series are the same whatever order theirs stand in."""
    return tuple(sorted(labels))


def _integer(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) <= 18 else None

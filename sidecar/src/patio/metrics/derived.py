"""Standard families that are more than a rename: numbers that stand in labels, and sums over a label. Pure.

`mappings` names these functions beside the family that each is made from; `rewrite` passes them that family's samples
and writes down what they return. A sample that they cannot read gives nothing, never a guess and never a zero.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

Labels = tuple[tuple[bytes, bytes], ...]
"""Names and values in the order of the text; values as they stand there, escapes included."""


class Read(NamedTuple):
    """One series of the engine; its labels, between the braces, are taken apart only by who needs them."""

    labels: bytes
    value: float


class Sample(NamedTuple):
    """One series of a standard family."""

    labels: Labels
    value: float


Derivation = Callable[[Sequence[Read]], Iterable[Sample]]
"""From the samples of a source, those of a standard family."""

_OF_THE_ENGINE = (b"engine", b"model_name")
"""Labels that say whose configuration it is; the others are the configuration."""
_LORA = (b"max_lora", b"running_lora_adapters", b"waiting_lora_adapters")
_NAMES = re.compile(rb",(?! )")
"""Between two names: vLLM joins them by a comma alone, so one before a space is part of a name."""
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]++|\\.)*+)"')


def read(labels: bytes, rest: bytes) -> Read | None:
    """Return a sample from what stands between its braces and what follows; None if its value is no number."""
    value = rest.split(None, 1)[0]
    try:
        # Python alone takes 1_000 for a number.
        return None if b"_" in value else Read(labels, float(value))
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
    return -sample.value if sample.value == sample.value else math.inf


def _parse_labels(labels: bytes) -> Labels:
    return tuple(_LABEL.findall(labels))


def _key(labels: Labels) -> Labels:
    """Labels in one order: series are the same whatever order theirs stand in."""
    return tuple(sorted(labels))


def _integer(text: bytes | None) -> int | None:
    return int(text) if text is not None and text.isdigit() and len(text) <= 18 else None

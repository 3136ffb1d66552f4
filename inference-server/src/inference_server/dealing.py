"""Deals ports and GPUs to several servers of one machine. Pure.

`fleet` says what each server wants and what there is, and sets what comes back. A server that chose its GPUs itself
(`CUDA_VISIBLE_DEVICES` in its variables) keeps them, and nothing of them is dealt to others.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from inference_server.arguments import values_of

VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
"""Variables that say which GPUs a process may use."""

PORT_DISTANCE: Mapping[str, int] = {"sglang": 1000}
"""How far the port of an engine is from the next server's.

SGLang 0.5.23 listens on more ports than its own: up to `--port` + 1000 (NCCL), and from `--port` + 233 (ZeroMQ).
"""

_SIZES: Mapping[str, Sequence[tuple[str, ...]]] = {
    "vllm": (
        ("--tensor-parallel-size", "-tp"),
        ("--pipeline-parallel-size", "-pp"),
        ("--data-parallel-size", "-dp"),
    ),
    "sglang": (
        ("--tensor-parallel-size", "--tp-size", "--tp"),
        ("--pipeline-parallel-size", "--pp-size", "--pp"),
        ("--data-parallel-size", "--dp-size", "--dp"),
    ),
}


class DealingError(ValueError):
    """There is not enough for all of them."""


@dataclass(frozen=True)
class Wanted:
    """What one server wants."""

    name: str
    gpus: int = 1
    own_gpus: tuple[str, ...] | None = None
    """GPUs that its configuration names. None: it takes what is dealt."""
    port: int = 0
    """A port that its configuration names. 0: it takes what is dealt."""
    port_distance: int = 1


@dataclass(frozen=True)
class Dealt:
    """What one server gets."""

    port: int
    gpus: tuple[str, ...] = ()
    """Empty: nothing was dealt, and the server sees what its variables say."""


def gpus_needed(engine: str, words: Sequence[str]) -> int:
    """Return how many GPUs an engine's arguments ask for; 1 if they say nothing."""
    needed = 1
    for names in _SIZES.get(engine, ()):
        if names[0].startswith("--data") and engine == "sglang" and "--enable-dp-attention" in words:
            continue  # its data-parallel ranks share the GPUs of the tensor-parallel ones
        values = values_of(words, *names)
        if values and re.match(r"[1-9]\d{0,5}$", values[0]):
            needed *= int(values[0])
    return needed


def listed_gpus(value: str | None) -> tuple[str, ...] | None:
    """Return the GPUs that a variable like CUDA_VISIBLE_DEVICES lists; None if it is not set."""
    if value is None:
        return None
    names = tuple(part.strip() for part in value.split(",") if part.strip())
    return () if names == ("-1",) else names


def own_gpus(variables: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the GPUs that variables choose, or None if they say nothing about them."""
    return next((listed_gpus(variables[name]) for name in VISIBLE if name in variables), None)


def deal(
    wanted: Sequence[Wanted],
    gpus: Sequence[str],
    ports: tuple[int, int],
    is_free: Callable[[int], bool],
    start: int,
) -> tuple[Dealt, ...]:
    """Return what each server gets.

    Args:
        wanted: the servers, in their order.
        gpus: the machine's GPUs; with none, none is dealt.
        ports: the first and the last port that may be dealt.
        is_free: whether a port is free at this moment.
        start: any number, which says where in `ports` to begin.

    Raises:
        DealingError: there are too few GPUs or ports, or two servers want the same.
    """
    return tuple(
        Dealt(port, share) for port, share in zip(_deal_ports(wanted, ports, is_free, start), _deal_gpus(wanted, gpus))
    )


def _deal_gpus(wanted: Sequence[Wanted], gpus: Sequence[str]) -> list[tuple[str, ...]]:
    taken = {gpu for each in wanted for gpu in each.own_gpus or ()}
    free = [gpu for gpu in gpus if gpu not in taken]
    takers = [each for each in wanted if each.own_gpus is None]
    needed = sum(each.gpus for each in takers)
    if gpus and needed > len(free):
        raise DealingError(
            "%d servers need %d GPUs (%s), and %d of the machine's %d can be dealt (%s)"
            % (
                len(takers),
                needed,
                ", ".join("%s: %d" % (each.name, each.gpus) for each in takers),
                len(free),
                len(gpus),
                ", ".join(free) or "none",
            )
        )
    shares = []
    for each in wanted:
        count = each.gpus if gpus and each.own_gpus is None else 0
        shares.append(tuple(free[:count]))
        free = free[count:]
    return shares


def _deal_ports(
    wanted: Sequence[Wanted], ports: tuple[int, int], is_free: Callable[[int], bool], start: int
) -> list[int]:
    taken: list[tuple[int, int]] = []
    for each in wanted:
        if not each.port:
            continue
        if any(port == each.port for port, _ in taken):
            raise DealingError("two servers want port %d" % each.port)
        taken.append((each.port, each.port_distance))
    first, last = ports
    count = last - first + 1
    chosen = []
    for each in wanted:
        if each.port:
            chosen.append(each.port)
            continue
        candidates = (first + (start + offset) % count for offset in range(count))
        port = next(
            (
                port
                for port in candidates
                if port + each.port_distance <= last + 1
                and all(_apart(port, each.port_distance, *other) for other in taken)
                and is_free(port)
            ),
            None,
        )
        if port is None:
            raise DealingError("no port between %d and %d is left for %s" % (first, last, each.name))
        taken.append((port, each.port_distance))
        chosen.append(port)
    return chosen


def _apart(port: int, distance: int, other: int, other_distance: int) -> bool:
    """Whether neither of two servers is within the ports of the other."""
    return port + distance <= other or other + other_distance <= port


def part_of(ports: tuple[int, int], index: int, count: int) -> tuple[int, int]:
    """Return the part of a range that belongs to worker `index` of `count`, which no other worker has."""
    first, last = ports
    size = max((last - first + 1) // max(count, 1), 1)
    low = first + min(index, count - 1) * size
    return low, min(low + size - 1, last)

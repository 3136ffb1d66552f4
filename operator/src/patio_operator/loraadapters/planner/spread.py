"""In which order pods get an adapter, and lose it: over nodes first, then by what costs least. Pure.

Used by `scheduling` once it is known how many pods are to get it or to lose it. The order is total and depends on
nothing but the pods and the LoraAdapter, so that every pass, on every replica, comes to the same pods.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from patio_operator.loraadapters.planner.candidates import Candidate, Desired
from patio_operator.loraadapters.planner.capacity import CapacityLedger
from patio_protocol.sources import Source, SourceKind, parse_source

Rank = Callable[[Candidate], tuple[Any, ...]]
"""What sorts spots, smallest first; no two alike."""


def by_node(
    candidates: Iterable[Candidate],
    most: int,
    first: Rank,
    crowd: Mapping[str, int],
    step: int,
    then: Rank,
) -> list[Candidate]:
    """Take spots one by one, each from the node where there are then the fewest.

    Args:
        spots: what there is to take.
        most: how many to take.
        first: what counts more than the node, smallest first.
        crowd: how many there are on each node before.
        step: 1 to fill, from the emptiest node; -1 to clear, from the fullest.
        then: what counts on one node, smallest first.

    """
    nodes: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        nodes.setdefault(candidate.pod.node, []).append(candidate)
    heads: list[tuple[Any, ...]] = []

    def push(node: str, taken: int) -> None:
        if nodes[node]:
            candidate = nodes[node].pop()
            heapq.heappush(
                heads, (first(candidate), step * crowd.get(node, 0) + taken, then(candidate), node, taken, candidate)
            )

    for node, on_node in nodes.items():
        on_node.sort(key=lambda candidate: (first(candidate), then(candidate)), reverse=True)
        push(node, 0)
    chosen: list[Candidate] = []
    while heads and len(chosen) < most:
        *_, node, taken, candidate = heapq.heappop(heads)
        chosen.append(candidate)
        push(node, taken + 1)
    return chosen


def ranking(desired: Desired, capacity: CapacityLedger) -> Rank:
    """Return the order in which pods of one node get the adapter: what costs least first, and no two alike."""
    sources = _written(desired)

    def rank(candidate: Candidate) -> tuple[Any, ...]:
        uid, answer = candidate.pod.uid, candidate.observed.sidecar.answer
        at_hand = answer is not None and not sources.isdisjoint(answer.on_disk)
        dice = hashlib.sha256(f"{desired.adapter.owner} {candidate.pod.name}".encode()).digest()
        return not at_hand, capacity.used(uid), not capacity.fits_batch(uid), dice, candidate.pod.name

    return rank


def _written(desired: Desired) -> frozenset[str]:
    """Return how sidecars may write the source in what they have on disk: with its revision in it, or without."""
    if desired.load.source is None:
        return frozenset()
    source = parse_source(desired.load.source)
    revision = desired.adapter.spec.source.revision
    if source.kind is SourceKind.HF and revision is not None:
        return frozenset({str(source), str(Source(source.kind, source.name, source.path, revision))})
    return frozenset({str(source)})

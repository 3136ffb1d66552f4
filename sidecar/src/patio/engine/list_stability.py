"""Detects a list of adapters that changes from poll to poll by itself. Pure.

SGLang with several tokenizer workers answers from any one of them, each with a list of its own. Where the server does
not say that it has several, its list gives it away: names vanish and come back between two polls, without an order and
without an eviction. `sglang` asks after each list that it reads.
"""

from __future__ import annotations

from collections.abc import Collection

RETURNS = 3
"""Times that a name comes back by itself before the list is not believed."""
WITHIN = 60.0
"""Seconds in which they do."""
DISBELIEF = 300.0
"""Seconds after which the list is judged again: the other client may have stopped."""


class ListStability:
    """The lists of one life of an engine."""

    def __init__(self) -> None:
        self._names: frozenset[str] = frozenset()
        self._orders = -1
        self._vanished: set[str] = set()
        """Names that went without an order."""
        self._returns: list[float] = []
        """When a name came back."""
        self._until = float("-inf")

    def observe(self, names: Collection[str], orders: int, *, may_evict: bool, now: float) -> bool:
        """Take in a list, and return whether it changes by itself too often to be believed.

        Args:
            names: what it has.
            orders: a number that changes with every order to the engine.
            may_evict: whether the engine makes room by itself, so that names come and go with requests.
            now: the caller's clock.

        """
        listed = frozenset(names)
        if may_evict or orders != self._orders:
            # What comes and goes around an order, or with requests that make room for others, does so for a reason.
            self._vanished.clear()
        else:
            self._returns += [now] * len(self._vanished & listed)
            self._vanished |= self._names - listed
        self._vanished -= listed
        self._names, self._orders = listed, orders
        self._returns = [at for at in self._returns if now - at <= WITHIN]
        if len(self._returns) >= RETURNS:
            self._returns.clear()
            self._until = now + DISBELIEF
        return now < self._until

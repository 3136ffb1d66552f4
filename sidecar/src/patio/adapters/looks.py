"""Looks at the engine: which of them count, and which files it may still read though it lists them no more.

Between the engine and the reconciler, which asks here and takes in `view` when it is another one. Decides nothing about
adapters.
"""

from __future__ import annotations

import time

from patio.adapters.situation import UNSEEN
from patio.engine.base import Engine, EngineView

BLURRED_LOOKS = 3
"""Looks in a row without an answer before an engine that was ready no longer is: a busy one may be slow for a while."""
LINGER = 600.0
"""Seconds that files stay after the engine's list dropped them. vLLM 0.32 reads them again for requests under way whose
weights had to make room (with --max-loras 1 any other load does that), and its engine dies when they are gone."""


class Looks:
    """The looks of one sidecar."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked = float("-inf")
        self._blurred = 0
        """Blurred looks in a row."""
        self._listed: frozenset[str] = frozenset()
        """The paths of the last list that could be read."""
        self._dropped: dict[str, float] = {}
        """When a path left the list."""
        self.view = UNSEEN
        """The last look that counts."""

    async def look(self) -> EngineView:
        """Ask, and return the answer. A view older than the one in hand does not count, nor a blurred one at first."""
        asked = time.monotonic()
        view = await self._engine.view()
        if asked < self._asked:
            return view
        self._blurred = self._blurred + 1 if view.blurred else 0
        if self.view.ready and 0 < self._blurred < BLURRED_LOOKS:
            return view
        self._asked = asked
        if not view.listening:
            # No process, no request that could need anything.
            self._listed = frozenset()
            self._dropped.clear()
        elif view.adapters is not None:
            listed = frozenset(view.adapters.values())
            self._dropped.update(dict.fromkeys(self._listed - listed, asked))
            self._listed = listed
        self.view = view
        return view

    def lingering(self) -> frozenset[str]:
        """Return the paths that left the list, and that requests under way may still have."""
        since = time.monotonic() - LINGER
        self._dropped = {path: at for path, at in self._dropped.items() if at > since}
        return frozenset(self._dropped)

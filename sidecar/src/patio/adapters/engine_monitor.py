"""Looks at the engine: one at a time, which of them count, and which files it may still read though it lists them no
more.

Between the engine and the reconciler. Whoever needs to know how the engine is joins the look that begins next, so a
thousand loads that end together cost one. The reconciler is told of each look that counts. Decides nothing about
adapters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from patio.adapters.snapshot import UNOBSERVED
from patio.engine.base import Engine, EngineView, FaultReason, RetryableError

log = logging.getLogger(__name__)

BLURRED_LOOKS = 3
"""Looks in a row without an answer before an engine that was ready no longer is: a busy one may be slow for a while."""
BLURRED_APART = 0.4
"""Seconds between the beginnings of two looks that count as two of those: a burst of looks is one moment."""
REST = 4.0
"""Times a look's own duration that pass before the next one begins, up to `LONGEST_REST`: looking is a small part of
what the sidecar and its engine do."""
LONGEST_REST = 0.25
LINGER = 600.0
"""Seconds that files stay after the engine's list dropped them. vLLM 0.32 reads them again for requests under way whose
weights had to make room (with --max-loras 1 any other load does that), and its engine dies when they are gone."""


class Looks:
    """The looks of one sidecar."""

    def __init__(self, engine: Engine, seen: Callable[[EngineView], None]) -> None:
        """`seen` is told of each look that counts, before those who wait for it."""
        self._engine = engine
        self._seen = seen
        self._current: asyncio.Task[EngineView] | None = None
        """The look that began last."""
        self._next: asyncio.Task[EngineView] | None = None
        """The look that has not begun: it may be joined."""
        self._rested = float("-inf")
        """When the next one may begin."""
        self._blurred = 0
        """Blurred looks in a row."""
        self._blurred_at = float("-inf")
        """When the last of them began."""
        self._broke = False
        """Whether the last look ended in an error of the sidecar's own."""
        self._listed: frozenset[str] = frozenset()
        """The paths of the last list that could be read."""
        self._dropped: dict[str, float] = {}
        """When a path left the list."""
        self.view = UNOBSERVED
        """The last look that counts."""

    async def look(self) -> EngineView:
        """Return what the engine said in a look that begins after this call. A blurred one does not count at first."""
        if self._next is None:
            self._next = asyncio.create_task(self._look(self._current), name="look")
        # Whoever is cancelled takes no other along.
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """End the looks that are under way."""
        tasks = [task for task in (self._current, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, before: asyncio.Task[EngineView] | None) -> EngineView:
        if before is not None and not before.done():
            await asyncio.wait([before])
        await asyncio.sleep(self._rested - time.monotonic())
        self._current, self._next = self._next, None
        asked = time.monotonic()
        view = await self._ask()
        ended = time.monotonic()
        self._rested = ended + min(LONGEST_REST, REST * (ended - asked))
        if not view.blurred:
            self._blurred, self._blurred_at = 0, float("-inf")
        elif asked - self._blurred_at >= BLURRED_APART:
            self._blurred, self._blurred_at = self._blurred + 1, asked
        if self.view.ready and view.blurred and self._blurred < BLURRED_LOOKS:
            return view
        if not view.listening:
            # No process, no request that could need anything.
            self._listed = frozenset()
            self._dropped.clear()
        elif view.adapters is not None:
            listed = frozenset(view.adapters.values())
            self._dropped.update(dict.fromkeys(self._listed - listed, asked))
            self._listed = listed
        self.view = view
        self._seen(view)
        return view

    async def _ask(self) -> EngineView:
        try:
            view = await self._engine.view()
        except Exception as error:  # the outermost of a look: whatever an engine answers, the next look is made
            if not self._broke:
                log.exception("look at the engine broke")
            self._broke = True
            words = f"The sidecar broke on what the engine answered ({type(error).__name__}); see its log."
            return EngineView(ready=False, adapters=None, fault=RetryableError(FaultReason.ENGINE_FAULT, words))
        self._broke = False
        return view

    def lingering(self) -> frozenset[str]:
        """Return the paths that left the list, and that requests under way may still have."""
        since = time.monotonic() - LINGER
        self._dropped = {path: at for path, at in self._dropped.items() if at > since}
        return frozenset(self._dropped)

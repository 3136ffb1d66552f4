"""Polls the engine: one poll at a time, which of them count, and which files the engine may still read although it no
longer lists them.

Between the engine and the reconciler. A caller that needs to know how the engine is joins the poll that begins next, so
a thousand loads that end together cost one. Each poll that counts is passed to the reconciler. Decides nothing about
adapters.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from patio.adapters.snapshot import UNOBSERVED
from patio.engine.base import Engine, EngineReason, EngineView, RetryableError

log = logging.getLogger(__name__)

UNRELIABLE_POLLS = 3
"""Polls in a row without an answer before an engine that was ready no longer is: a busy one may be slow for a while."""
UNRELIABLE_APART = 0.4
"""Seconds between the beginnings of two polls that count as two of those: a burst of polls is one moment."""
REST = 4.0
"""Times a poll's own duration that pass before the next one begins, up to `LONGEST_REST`: polling is a small part of
what the sidecar and its engine do."""
LONGEST_REST = 0.25
LINGER = 600.0
"""Seconds that files stay after the engine's list dropped them. vLLM 0.32 reads them again for running requests whose
weights had to make room (with --max-loras 1 any other load does that), and its engine dies when they are gone."""


class EngineMonitor:
    """The polls of one sidecar."""

    def __init__(self, engine: Engine, on_view: Callable[[EngineView], None]) -> None:
        """`on_view` is called with each poll that counts, before those who wait for it."""
        self._engine = engine
        self._on_view = on_view
        self._current: asyncio.Task[EngineView] | None = None
        """The poll that began last."""
        self._next: asyncio.Task[EngineView] | None = None
        """The poll that has not begun: it may be joined."""
        self._next_at = float("-inf")
        """When the next one may begin."""
        self._unreliable = 0
        """Unreliable polls in a row."""
        self._unreliable_at = float("-inf")
        """When the last of them began."""
        self._failed = False
        """Whether the last poll ended in an error of the sidecar's own."""
        self._listed: frozenset[str] = frozenset()
        """The paths of the last list that could be read."""
        self._dropped: dict[str, float] = {}
        """When a path left the list."""
        self.view = UNOBSERVED
        """The last poll that counts."""

    async def poll(self) -> EngineView:
        """Return what the engine says in a poll that begins after this call, unreliable or not."""
        if self._next is None:
            self._next = asyncio.create_task(self._poll(self._current), name="poll")
        # A caller that is cancelled cancels no other.
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancel the polls that are in progress."""
        tasks = [task for task in (self._current, self._next) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self, previous: asyncio.Task[EngineView] | None) -> EngineView:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])
        await asyncio.sleep(self._next_at - time.monotonic())
        self._current, self._next = self._next, None
        started = time.monotonic()
        view = await self._ask()
        ended = time.monotonic()
        self._next_at = ended + min(LONGEST_REST, REST * (ended - started))
        if not view.unreliable:
            self._unreliable, self._unreliable_at = 0, float("-inf")
        elif started - self._unreliable_at >= UNRELIABLE_APART:
            self._unreliable, self._unreliable_at = self._unreliable + 1, started
        if self.view.ready and view.unreliable and self._unreliable < UNRELIABLE_POLLS:
            return view
        if not view.listening:
            # No process, no request that could need anything.
            self._listed = frozenset()
            self._dropped.clear()
        elif view.adapters is not None:
            listed = frozenset(view.adapters.values())
            self._dropped.update(dict.fromkeys(self._listed - listed, started))
            self._listed = listed
        self.view = view
        self._on_view(view)
        return view

    async def _ask(self) -> EngineView:
        try:
            view = await self._engine.view()
        except Exception as error:  # the outermost of a poll: whatever an engine answers, the next poll is made
            if not self._failed:
                log.exception("engine poll failed")
            self._failed = True
            message = (
                f"The sidecar failed to read the engine's answer ({type(error).__name__}). Its log has the traceback."
            )
            return EngineView(ready=False, adapters=None, error=RetryableError(EngineReason.ENGINE_ERROR, message))
        self._failed = False
        return view

    def lingering(self) -> frozenset[str]:
        """Return the paths that left the list, and that running requests may still have."""
        since = time.monotonic() - LINGER
        self._dropped = {path: at for path, at in self._dropped.items() if at > since}
        return frozenset(self._dropped)

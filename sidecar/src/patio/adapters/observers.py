"""Observes, beside the engine's list, what changes rarely: files of adapters that failed, the base models that adapters
name, the limits of the engine, and staged files that another sidecar left on disk.

Each loop writes what it found into the snapshot and wakes the reconciler. Files may be on a volume that hangs: no loop
waits for another. Decides nothing about adapters.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from patio.adapters.commits import Commits
from patio.adapters.desired import Slot, with_fetched
from patio.adapters.fetching import Fetcher
from patio.adapters.fingerprints import Fingerprints
from patio.adapters.snapshot import AdapterSnapshot, State, with_base_model, with_verified
from patio.engine.base import Capacity, Engine, EngineError

log = logging.getLogger(__name__)

FILES_EVERY = 1.0
READ_A_ROUND = 8
"""Configurations of adapters that are read at a time, of those that the engine had before the sidecar started."""
CAPACITY_EVERY = 30.0
"""Seconds between requests for an engine's limits, until it has them: vLLM 0.32 does after LoRA traffic only."""
READY_EVERY = 0.5


class Observers:
    """The slow observations of one pod."""

    def __init__(
        self,
        engine: Engine,
        fetcher: Fetcher,
        state: State,
        commits: Commits,
        fingerprints: Fingerprints,
        changed: Callable[[], None],
    ) -> None:
        """`changed` is called whenever there may be something new to plan."""
        self._engine = engine
        self._fetcher = fetcher
        self._state = state
        self._commits = commits
        self._fingerprints = fingerprints
        self._changed = changed

    async def run(self) -> None:
        """Observe until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_files(), name="files")
            tasks.create_task(self._watch_capacity(), name="capacity")
            tasks.create_task(self._verify_staged(), name="staged")

    async def _watch_files(self) -> None:
        """Check the files of adapters that failed, and of those that were never read."""
        while True:
            with _logged("file check"):
                active = self._snapshot.desired.in_slot(Slot.ACTIVE)
                await self._fingerprints.compare(
                    {
                        name: spec.path
                        for name, spec in active.items()
                        if spec.path
                        and (progress := self._snapshot.progress.get((name, Slot.ACTIVE)))
                        and progress.rejection
                    }
                )
                self._fingerprints.keep(self._snapshot.desired.in_slot(Slot.ACTIVE).keys())
                await self._read_configurations()
            if self._fingerprints.changed:
                self._changed()
            await asyncio.sleep(FILES_EVERY)

    async def _read_configurations(self) -> None:
        """Read for which base model adapters were trained that a previous sidecar had loaded."""
        snapshot = self._snapshot
        paths = {spec.path for spec in snapshot.desired.in_slot(Slot.ACTIVE).values()}
        base_models = {path: model for path, model in snapshot.base_models.items() if path in paths}
        if len(base_models) != len(snapshot.base_models):
            self._state.snapshot = replace(snapshot, base_models=base_models)
        loaded = set((snapshot.view.adapters or {}).values()) & paths
        unread = sorted(loaded - base_models.keys())[:READ_A_ROUND]
        for path, contents in zip(unread, await asyncio.gather(*map(self._fingerprints.read, unread)), strict=True):
            if path not in self._snapshot.base_models:
                self._state.apply(with_base_model, path, "" if contents is None else contents.base_model)
            self._changed()

    async def _watch_capacity(self) -> None:
        """Ask the engine for its limits each time that it became ready, and again while it does not have them."""
        polled_life = 0
        while True:
            life = self._snapshot.life
            if not self._snapshot.view.ready or polled_life == life:
                await asyncio.sleep(READY_EVERY)
                continue
            with contextlib.suppress(EngineError), _logged("capacity poll"):
                capacity = await self._engine.capacity()
                self._state.snapshot = replace(self._snapshot, capacity=capacity)
                self._changed()
            if self._snapshot.capacity == Capacity():
                await asyncio.sleep(CAPACITY_EVERY)
            else:
                polled_life = life

    async def _verify_staged(self) -> None:
        """Have staged files fetched again that another pod removed from the shared disk while no sidecar held them."""
        for name, spec in self._snapshot.desired.in_slot(Slot.STAGED).items():
            exists = True
            with _logged("staged files check"):
                # What hangs is left to the order that will have it loaded.
                if spec.path and await self._fingerprints.read(spec.path) is not None:
                    exists = await self._fetcher.pin(spec.path)
            if not exists:
                log.info("staged files missing adapter=%s folder=%s", name, spec.path)
                self._commits.learn(partial(with_fetched, fetched=spec, folder=""))
            self._state.apply(with_verified, (name, Slot.STAGED))
            self._changed()

    @property
    def _snapshot(self) -> AdapterSnapshot:
        return self._state.snapshot


@contextlib.contextmanager
def _logged(task: str) -> Iterator[None]:
    """Log an unforeseen error in a loop, which goes on: one odd file or answer must not end the process."""
    try:
        yield
    except EngineError:
        raise
    except Exception:  # the outermost of a round
        log.exception("%s failed", task)

"""What the API shows of the adapters, and the wake-up of everybody who waits for a change of it.

The reconciler publishes here after each look and each step; routes and metrics read. Says nothing of its own: only
the revision, and the time at which each state began, are made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from patio.api.protocol import MOST_ON_DISK, AdapterCapacity, AdapterList, AdapterReport
from patio.engine.base import Capacity, Engine, EngineView


class Board:
    """The last answer to `GET /v1/lora_adapters`."""

    def __init__(self, engine: Engine, boot: str) -> None:
        """`boot` tells this start of the sidecar from others."""
        self._engine = engine
        self._boot = boot
        self._turn = 0
        self._turned = asyncio.Event()
        self.list = AdapterList(revision=self._revision, engine=engine.kind, engine_ready=False)
        """Every adapter wanted or present."""

    def report(self, name: str) -> AdapterReport | None:
        """Return how one adapter stands."""
        return next((report for report in self.list.adapters if report.lora_name == name), None)

    async def changed(self, revision: str) -> None:
        """Return when `revision` is no longer the current one."""
        while self.list.revision == revision:
            await self._turned.wait()

    def publish(
        self, view: EngineView, capacity: Capacity, planned: Sequence[AdapterReport], on_disk: Collection[str]
    ) -> None:
        """Show how things stand; where they differ from before, everyone who waits for a change is woken."""
        before = {report.lora_name: report for report in self.list.adapters}
        now = time.time()
        shown = AdapterList(
            revision=self.list.revision,
            engine=self._engine.kind,
            engine_ready=view.ready,
            base_models=view.base_models,
            adapters=tuple(self._stamped(report, before.get(report.lora_name), view, now) for report in planned),
            capacity=AdapterCapacity(batch=capacity.batch, loaded=capacity.loaded),
            on_disk=tuple(sorted(on_disk)[:MOST_ON_DISK]),
        )
        if shown != self.list:
            self._turn += 1
            self.list = shown.model_copy(update={"revision": self._revision})
            self._turned.set()
            self._turned = asyncio.Event()

    @property
    def _revision(self) -> str:
        return f"{self._boot}-{self._turn}"

    def _stamped(
        self, report: AdapterReport, before: AdapterReport | None, view: EngineView, now: float
    ) -> AdapterReport:
        """Return a report with the name for requests, and with the time at which its state began."""
        since = before.since if before is not None and before.state is report.state else now
        model = self._engine.request_model(report.lora_name, view.base_models)
        return report.model_copy(update={"model": model, "since": since})

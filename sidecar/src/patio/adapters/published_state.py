"""What the API shows of the adapters, and the wake-up of every caller that waits for a change.

The reconciler publishes here after each poll and each step; routes and metrics read. Says nothing of its own: only
the revision, and the time at which each state began, are made here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence

from patio.engine.base import Capacity, Engine, EngineView
from patio_protocol.adapters import MOST_ON_DISK, AdapterCapacity, AdapterList, AdapterReport


class PublishedState:
    """The last answer to `GET /v1/lora_adapters`."""

    def __init__(self, engine: Engine, boot: str) -> None:
        """`boot` names this start of the sidecar."""
        self._engine = engine
        self._boot = boot
        self._number = 0
        self._revision_changed = asyncio.Event()
        self._reports: dict[str, AdapterReport] = {}
        self._planned: dict[str, AdapterReport] = {}
        """What they were made from."""
        self._waiting: dict[str, asyncio.Event] = {}
        """Who waits for a change of one adapter."""
        self._json: bytes | None = None
        self.list = AdapterList(revision=self._revision, engine=engine.kind, engine_ready=False)
        """Every adapter wanted or present."""

    def report(self, name: str) -> AdapterReport | None:
        """Return how one adapter stands."""
        return self._reports.get(name)

    @property
    def json(self) -> bytes:
        """The list as JSON, written once for all who ask."""
        if self._json is None:
            self._json = self.list.model_dump_json().encode()
        return self._json

    async def changed(self, revision: str) -> None:
        """Return when `revision` is no longer the current one."""
        while self.list.revision == revision:
            await self._revision_changed.wait()

    async def report_changed(self, name: str, report: AdapterReport | None) -> None:
        """Return when `report` is no longer the current one of an adapter."""
        while self._reports.get(name) is report:
            await self._waiting.setdefault(name, asyncio.Event()).wait()

    def publish(
        self, view: EngineView, capacity: Capacity, planned: Sequence[AdapterReport], on_disk: Collection[str]
    ) -> None:
        """Show how things stand; where they differ from before, everyone who waits for a change is woken."""
        now = time.time()
        reports = {report.lora_name: self._stamped(report, view, now) for report in planned}
        shown = AdapterList(
            revision=self.list.revision,
            engine=self._engine.kind,
            engine_ready=view.ready,
            base_models=view.base_models,
            adapters=tuple(reports.values()),
            capacity=AdapterCapacity(batch=capacity.batch, loaded=capacity.loaded),
            on_disk=tuple(sorted(on_disk)[:MOST_ON_DISK]),
        )
        previous, self._reports = self._reports, reports
        self._planned = {report.lora_name: report for report in planned}
        if shown == self.list:
            return
        self._number += 1
        self._json = None
        self.list = shown.model_copy(update={"revision": self._revision})
        self._revision_changed.set()
        self._revision_changed = asyncio.Event()
        for name in [name for name in self._waiting if reports.get(name) is not previous.get(name)]:
            self._waiting.pop(name).set()

    @property
    def _revision(self) -> str:
        return f"{self._boot}-{self._number}"

    def _stamped(self, report: AdapterReport, view: EngineView, now: float) -> AdapterReport:
        """Return a report with the name for requests, and with the time at which its state began; the one before, if
        it is no other.
        """
        previous = self._reports.get(report.lora_name)
        model = self._engine.request_model(report.lora_name, view.base_models)
        if previous is not None and previous.model == model and self._planned[report.lora_name] == report:
            return previous
        since = previous.since if previous is not None and previous.state is report.state else now
        return report.model_copy(update={"model": model, "since": since})

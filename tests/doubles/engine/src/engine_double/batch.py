"""The scheduler: which requests run, which wait, and the tokens they get.

A request waits for a place in the batch (`max_num_seqs`) and, with an adapter, for one of the `max_loras` slots, then
gets its words at the set speed. `abort` ends all of them at once as vLLM does on SIGTERM; `idle` is awaited by
SGLang's drain and by its unload. Knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from engine_double import text
from engine_double.settings import Settings
from engine_double.stats import Stats


@dataclass
class Weights:
    """What answers: the base model, or one adapter as it was loaded once.

    Shared by the requests that run with it. Loading in place changes it under them, as vLLM 0.32 does, which keeps the
    adapter's number; unloading and loading makes another one, and leaves them theirs.
    """

    digest: str


class Generation:
    """One request in the batch: iterate for its tokens, then read why it ended."""

    def __init__(self, batch: Batch, *, weights: Weights, adapter: str | None, prompt: str, max_tokens: int) -> None:
        self.prompt_tokens = text.tokens_of(prompt)
        self.tokens = 0
        self.finish_reason = "length"
        self._batch = batch
        self._adapter = adapter
        self._max_tokens = max_tokens
        self._weights = weights
        self._prompt = prompt

    async def __aiter__(self) -> AsyncIterator[str]:
        """The words, as they come."""
        batch = self._batch
        started = time.monotonic()
        placed = first_token = last_token = None
        try:
            async with batch.place(self._adapter):
                placed = time.monotonic()
                for index in range(self._max_tokens):
                    if await batch.aborted_within(batch.seconds_per_token):
                        self.finish_reason = "abort"
                        break
                    now = time.monotonic()
                    if last_token is not None:
                        batch.stats.histograms["inter_token_latency"].add(now - last_token)
                    first_token, last_token = first_token or now, now
                    self.tokens += 1
                    batch.stats.generation_tokens += 1
                    yield text.token_text(self._weights.digest, self._prompt, index)
        finally:
            now = time.monotonic()
            batch.stats.prompt_tokens += self.prompt_tokens
            batch.stats.request_finished(
                prompt_tokens=self.prompt_tokens,
                tokens=self.tokens,
                started=started,
                placed=placed or now,
                first_token=first_token or now,
                now=now,
                reason=self.finish_reason,
            )

    async def read(self) -> str:
        """All tokens at once."""
        return "".join([token async for token in self])


class Batch:
    """All requests of one engine."""

    def __init__(self, settings: Settings, stats: Stats) -> None:
        self.stats = stats
        self.tokens_per_second = settings.tokens_per_second
        self.running: Counter[str | None] = Counter()
        """Running requests by adapter; None is the base model."""
        self.waiting: Counter[str | None] = Counter()
        self._max_num_seqs = settings.max_num_seqs
        self._max_loras = settings.max_loras
        self._changed = asyncio.Condition()
        self._aborted = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()

    @property
    def seconds_per_token(self) -> float:
        """How long one token of one request takes."""
        return 1.0 / self.tokens_per_second if self.tokens_per_second else 0.0

    @property
    def paused(self) -> bool:
        """Whether no tokens are made."""
        return not self._resumed.is_set()

    def pause(self) -> None:
        """Make no more tokens."""
        self._resumed.clear()

    def resume(self) -> None:
        """Make tokens again."""
        self._resumed.set()

    def abort(self) -> None:
        """End every request, also those to come."""
        self._aborted.set()

    async def idle(self, adapter: str | None = None) -> None:
        """Wait until no request runs or waits, or none of one adapter."""

        def none_left() -> bool:
            if adapter is None:
                return not self.running.total() and not self.waiting.total()
            return not self.running[adapter] and not self.waiting[adapter]

        async with self._changed:
            await self._changed.wait_for(none_left)

    async def until_running(self, count: int) -> None:
        """Wait until exactly so many requests run."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.running.total() == count)

    async def aborted_within(self, seconds: float) -> bool:
        """Let that much time pass, less when everything is aborted."""
        await self._resumed.wait()
        if seconds <= 0:
            await asyncio.sleep(0)
            return self._aborted.is_set()
        try:
            await asyncio.wait_for(self._aborted.wait(), seconds)
        except TimeoutError:
            return False
        return True

    def place(self, adapter: str | None) -> _Place:
        """A place in the batch, for `async with`."""
        return _Place(self, adapter)

    def has_room_for(self, adapter: str | None) -> bool:
        """Whether one more request can run now."""
        if self._aborted.is_set():
            return True
        if self.running.total() >= self._max_num_seqs:
            return False
        adapters = {name for name, count in self.running.items() if count and name is not None}
        return adapter is None or adapter in adapters or len(adapters) < self._max_loras

    async def move(self, adapter: str | None, *, waiting: int = 0, running: int = 0) -> None:
        """Change the counts and wake every waiter."""
        async with self._changed:
            self.waiting[adapter] += waiting
            self.running[adapter] += running
            self.note_adapters()
            self._changed.notify_all()

    async def wait_for_room(self, adapter: str | None) -> None:
        """Wait for a place, then take it."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.has_room_for(adapter))
            self.waiting[adapter] -= 1
            self.running[adapter] += 1
            self.note_adapters()
            self._changed.notify_all()

    def note_adapters(self) -> None:
        """Remember which adapters have requests now, running or waiting."""
        names = [name for name in {**self.running, **self.waiting} if name is not None]
        busy = [name for name in names if self.running[name] or self.waiting[name]]
        self.stats.lora_info[",".join(busy)] = time.time()


class _Place:
    def __init__(self, batch: Batch, adapter: str | None) -> None:
        self._batch = batch
        self._adapter = adapter

    async def __aenter__(self) -> None:
        await self._batch.move(self._adapter, waiting=+1)
        try:
            await self._batch.wait_for_room(self._adapter)
        except asyncio.CancelledError:
            await asyncio.shield(self._batch.move(self._adapter, waiting=-1))
            raise

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(self._batch.move(self._adapter, running=-1))

"""What the sidecar needs of an engine, and the words for what an engine answers.

Pure vocabulary: `vllm` and `sglang` implement `Engine`, `patio.adapters` uses it. Faults are told apart by what to do
next, never by status code alone: vLLM answers 500 to adapters that can never work. Every fault carries the
engine's own words. Nothing here does I/O.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from patio_protocol.engines import TRIAL_PREFIX, EngineKind


class EngineReason(StrEnum):
    """Why an engine rejected or failed an order: CamelCase and stable, shown in reports, metrics and conditions."""

    ADAPTER_NOT_FOUND = "AdapterNotFound"
    """The engine does not find the files. The path may be right in the sidecar's container and wrong in its own."""
    ADAPTER_REJECTED = "AdapterRejected"
    """The engine found them and cannot use them: rank, DoRA, broken files, a name that is taken."""
    LORA_UNAVAILABLE = "LoraUnavailable"
    """This engine was not started so that adapters can be loaded at run time."""
    UNAUTHORIZED = "EngineUnauthorized"
    """The engine wants a key that the sidecar does not have."""
    UNREACHABLE = "EngineUnreachable"
    ENGINE_ERROR = "EngineError"
    """The engine answered with a temporary error."""
    NOT_LISTED = "NotListed"
    """The engine accepted the load, but its list does not have the adapter."""
    EVICTED = "EvictedByEngine"
    """The engine evicted it to make room for another adapter."""


class EngineError(Exception):
    """Base of everything an engine call raises."""

    permanent = False

    def __init__(self, reason: EngineReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class PermanentError(EngineError):
    """A retry gives the same answer: the user must act."""

    permanent = True


class RetryableError(EngineError):
    """A later retry may succeed."""


@dataclass(frozen=True, slots=True)
class EngineView:
    """What an engine says of itself, at one moment."""

    ready: bool
    listening: bool = True
    """False: nothing listens on the port, so no process holds any adapter."""
    base_models: tuple[str, ...] = ()
    base_roots: tuple[str, ...] = ()
    """Paths, or names, from which the engine has its base model, as far as it says."""
    context_tokens: int | None = None
    """Longest context of the first base model; None where the engine does not say."""
    adapters: Mapping[str, str] | None = field(default_factory=dict)
    """Path by adapter name, from the engine's own list; None when the list cannot be read."""
    trials: frozenset[str] = frozenset()
    """Names in that list that are trials of ours, and no adapters."""
    error: EngineError | None = None
    """Why it is not ready, or why its list cannot be read."""

    @property
    def unreliable(self) -> bool:
        """Whether the engine listens but did not answer: it may only be slow."""
        return self.listening and self.error is not None and self.error.reason is EngineReason.UNREACHABLE

    @property
    def problem(self) -> str:
        """The fault in words."""
        return "" if self.error is None else self.error.message


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine took an adapter."""

    evicted: frozenset[str] = frozenset()
    """Adapters that it dropped for it."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many adapters an engine was started for, as far as it says."""

    batch: int | None = None
    """Adapters that fit in one batch."""
    loaded: int | None = None
    """Adapters that can be loaded at once."""


_TRANSIENT = re.compile(
    r"out of memory|outofmemory|alloc_failed|EngineCore encountered an issue|EngineDeadError|server shutting down|"
    r"no space left on device|too many open files|input/output error|stale file handle|timed out",
    re.IGNORECASE,
)


def is_transient(message: str) -> bool:
    """Whether a message names a problem of the engine itself, not of the adapter: a retry may succeed."""
    return _TRANSIENT.search(message) is not None


def trial_name(name: str, path: str) -> str:
    """Return the name under which the weights of a path are tried, before they replace those of an adapter."""
    return TRIAL_PREFIX + hashlib.sha256(f"{name}\0{path}".encode()).hexdigest()[:12]


class Engine(Protocol):
    """An engine, as the reconciler uses it."""

    @property
    def kind(self) -> EngineKind:
        """Which engine this is."""

    @property
    def unloads_stick(self) -> bool:
        """Whether what was unloaded stays away; where not, the next request for it loads it again from its old path."""

    @property
    def unloads_wait(self) -> bool:
        """Whether an unload waits for the running requests, and every other change behind it."""

    async def view(self) -> EngineView:
        """Ask whether it is ready and what it has. An engine that is down is an answer, not an error."""

    async def load(self, name: str, path: str) -> Loaded:
        """Load an adapter under a free name; raise `EngineError`."""

    async def replace(self, name: str, path: str) -> Loaded:
        """Put other weights under a name that is loaded, so that no answer is made by both; raise `EngineError`.

        Where the engine can try them first, what it rejects leaves the old ones serving. A fault after that leaves
        the name free. A trial that was not to be unloaded again is in the next view.
        """

    async def unload(self, name: str) -> None:
        """Unload an adapter; one that is not loaded is no error. Raise `EngineError`."""

    async def capacity(self) -> Capacity:
        """Ask a ready engine how many adapters it takes; raise `EngineError`."""

    def request_model(self, name: str, base_models: tuple[str, ...]) -> str | None:
        """Return what a request must put in `model` to be answered by this adapter."""

"""SGLang, as recorded of 0.5.23 (older ones where they differ).

Ready is `/ready`, never `/health`, which generates a token and takes a second. Loads are not idempotent, a taken name
must be unloaded first, a full server evicts without a word (what was there before is compared with the answer), and a
request for what was unloaded loads it again.
With an admin key, changes take only that key and the list only the other one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from patio.engine.base import (
    Capacity,
    EngineError,
    EngineKind,
    EngineView,
    FaultReason,
    Loaded,
    PermanentError,
    RetryableError,
    trial_name,
)
from patio.engine.http import EngineHttp, down, unauthorized

_T = TypeVar("_T")

SWAPS = 5
"""Times that weights are unloaded and others loaded, before requests that bring the old ones back win."""
QUICK = 1.0
"""Seconds: a change that got no answer for longer waits for requests under way, and its outcome is still to come."""
LOOK_AGAIN = 0.02
"""Seconds between looks for the moment at which an unload has struck a name off."""
LOAD = "/load_lora_adapter"
UNLOAD = "/unload_lora_adapter"
NO_RUNTIME_LOADING = (
    "SGLang broke on it (500 Internal Server Error), as it does with --dp-size above 1, which can not load adapters at "
    "run time."
)


class Sglang:
    """An SGLang server."""

    def __init__(
        self, endpoint: str, http: httpx.AsyncClient, api_key: str | None, admin_key: str | None, model: str | None
    ) -> None:
        self._http = EngineHttp(endpoint, http)
        self._key = api_key
        self._admin_key = admin_key or api_key
        self._model = model
        self._may_evict = True
        """Until the server has said that it was started without a limit."""

    @property
    def kind(self) -> EngineKind:
        """SGLang."""
        return EngineKind.SGLANG

    @property
    def unloads_stick(self) -> bool:
        """They do not: the next request for `<base>:<adapter>` loads it again."""
        return False

    @property
    def unloads_wait(self) -> bool:
        """They do, with the one lock that every change takes."""
        return True

    async def view(self) -> EngineView:
        """Ask `/ready`, then the list."""
        try:
            ready = await self._http.look("/ready")
        except EngineError as fault:
            return down(fault)
        # Older SGLang has no /ready: there, the list answers once the model is loaded.
        if ready.is_success or ready.status_code == 404:
            return await self._http.listed(self._key)
        words = f"SGLang is warming up, paused or stopping (/ready answered {ready.status_code})."
        return down(RetryableError(FaultReason.ENGINE_FAULT, words))

    async def load(self, name: str, path: str) -> Loaded:
        """Load under a free name, and tell which adapters had to go for it."""
        # Without --max-loaded-loras nobody is evicted, and the list may be long.
        before = (await self._http.listed(self._key)).adapters or {} if self._may_evict else {}
        after = await self._change(LOAD, {"lora_name": name, "lora_path": path})
        return Loaded() if after is None else Loaded(evicted=frozenset(before.keys() - after - {name}))

    async def replace(self, name: str, path: str) -> Loaded:
        """Try the weights, where that evicts nobody; then unload and load, more than once if requests are quicker."""
        if await self._evicts_nobody():
            await self._try(trial_name(name, path), path)
        for _ in range(SWAPS):
            try:
                return await self._swap(name, path)
            except _TakenError:
                continue
        words = f"Requests for {name} brought its old weights back {SWAPS} times while the new ones were to be loaded."
        raise RetryableError(FaultReason.ENGINE_FAULT, words)

    async def _try(self, trial: str, path: str) -> None:
        try:
            await self.load(trial, path)
        except _TakenError:
            # Left by a sidecar that died; the files may have changed since.
            await self.unload(trial)
            await self.load(trial, path)
        with contextlib.suppress(EngineError):  # then it is seen in the list, and taken away
            await self.unload(trial)

    async def _swap(self, name: str, path: str) -> Loaded:
        """Unload, and have the load wait behind it, before the requests that would bring the old weights back.

        SGLang 0.5.23 strikes the name off its list at once and then waits for its requests, as does whoever comes
        next: the one lock is given in the order in which it was asked for. Requests may take longer than a call may.
        """
        unloading = asyncio.create_task(self._patiently(partial(self.unload, name)), name=f"unload {name}")
        try:
            while not unloading.done():
                listed = (await self._http.listed(self._key)).adapters
                if listed is None or name not in listed:
                    break
                await asyncio.wait([unloading], timeout=LOOK_AGAIN)
            loaded = await self._patiently(partial(self.load, name, path))
            await unloading
        except _TakenError:
            await unloading
            listed = (await self._http.listed(self._key)).adapters
            if listed is None or listed.get(name) != path:
                raise
            # By the call that was given up, or by a request, and those are the new weights.
            return Loaded()
        except EngineError:
            await unloading
            raise
        finally:
            unloading.cancel()
        return loaded

    async def _patiently(self, change: Callable[[], Awaitable[_T]]) -> _T:
        """Ask for a change again as long as it takes an engine that is up too long to answer."""
        while True:
            asked = time.monotonic()
            try:
                return await change()
            except RetryableError as fault:
                slow = fault.reason is FaultReason.UNREACHABLE and time.monotonic() - asked > QUICK
                if not slow or not (await self.view()).ready:
                    raise

    async def _evicts_nobody(self) -> bool:
        """Whether one adapter more takes no other's place, as far as the server tells."""
        try:
            capacity = await self.capacity()
        except EngineError:
            return False
        return capacity.batch is not None and capacity.loaded is None

    async def unload(self, name: str) -> None:
        """Let go; SGLang 0.5.23 waits for requests under way, without a limit of its own."""
        try:
            await self._change(UNLOAD, {"lora_name": name})
        except _NotThereError:
            return

    async def capacity(self) -> Capacity:
        """Read the limits that the server was started with."""
        response = await self._http.look("/server_info", self._key)
        if response.status_code == 404:
            # The name that 0.5.23 deprecates is the only one that older versions have.
            response = await self._http.look("/get_server_info", self._key)
        try:
            info = _ServerInfo.model_validate_json(response.content) if response.is_success else _ServerInfo()
        except ValidationError:
            info = _ServerInfo()
        self._may_evict = info.max_loras_per_batch is None or info.max_loaded_loras is not None
        return Capacity(batch=info.max_loras_per_batch, loaded=info.max_loaded_loras)

    def request_model(self, name: str, base_models: tuple[str, ...]) -> str | None:
        """Return `<base>:<adapter>`; the bare name is answered by the base model, with a 200."""
        base = self._model or next(iter(base_models), None)
        return None if base is None else f"{base}:{name}"

    async def _change(self, path: str, body: dict[str, object]) -> frozenset[str] | None:
        response = await self._http.change(path, self._admin_key, body)
        answer = _read(response.text)
        if response.is_success and answer.success:
            return answer.loaded
        raise fault_of(path, response.status_code, response.text, bool(self._admin_key))


class _ServerInfo(BaseModel):
    """The part of `/server_info` that tells of adapters."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_loras_per_batch: int | None = None
    max_loaded_loras: int | None = None


class _NotThereError(PermanentError):
    """An unload of what is not loaded."""


class _TakenError(RetryableError):
    """A load under a name that is loaded: by a request that came before, or by somebody else."""


@dataclass(frozen=True, slots=True)
class _Read:
    success: bool
    words: str | None
    loaded: frozenset[str] | None


def fault_of(path: str, status: int, text: str, has_key: bool = False) -> EngineError:
    """Tell what to do next from SGLang's answer to a load or unload."""
    message = _read(text).words or text.strip() or f"SGLang answered {status}."
    if status == 401:
        return unauthorized(path, "ENGINE_ADMIN_API_KEY" if has_key else "ENGINE_API_KEY or ENGINE_ADMIN_API_KEY")
    if status in (404, 405):
        words = f"This SGLang has no {path} (it answered {status}): it can not load adapters at run time."
        return PermanentError(FaultReason.LORA_UNAVAILABLE, words)
    if "LoRA is not enabled" in message:
        return PermanentError(FaultReason.LORA_UNAVAILABLE, message)
    if path == UNLOAD and "does not exist" in message:
        return _NotThereError(FaultReason.ADAPTER_NOT_FOUND, message)
    if path == LOAD and "already loaded" in message:
        # The list that the call was based on is stale; the next look tells.
        return _TakenError(FaultReason.ENGINE_FAULT, message)
    if "Repo id must be in the form" in message:
        # A missing path falls through to the hub, whose complaint hides what is wrong.
        words = f"The path does not exist in the engine's container: {message}"
        return PermanentError(FaultReason.ADAPTER_NOT_FOUND, words)
    if "No such file or directory" in message or "cached snapshot folder" in message:
        return PermanentError(FaultReason.ADAPTER_NOT_FOUND, message)
    if status == 500 and message == "Internal Server Error":
        return PermanentError(FaultReason.LORA_UNAVAILABLE, NO_RUNTIME_LOADING)
    if status < 500 and status not in (408, 425, 429):
        return PermanentError(FaultReason.ADAPTER_REFUSED, message)
    return RetryableError(FaultReason.ENGINE_FAULT, message)


def _read(text: str) -> _Read:
    """Read `{"success", "error_message", "loaded_adapters"}`, or the other shape of SGLang's errors."""
    try:
        body = json.loads(text)
    except ValueError:
        return _Read(False, None, None)
    if not isinstance(body, dict):
        return _Read(False, None, None)
    words = body.get("error_message") or body.get("message")
    loaded = body.get("loaded_adapters")
    return _Read(
        success=body.get("success") is True,
        words=words if isinstance(words, str) else None,
        loaded=frozenset(loaded) if isinstance(loaded, dict) else None,
    )

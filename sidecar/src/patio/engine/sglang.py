"""SGLang, as recorded of 0.5.23 (older ones where they differ).

Ready is `/ready`, never `/health`, which generates a token and takes a second. Loads are not idempotent, a taken name
must be unloaded first, a full server evicts without a word (what was there before is compared with the answer), and a
request for what was unloaded loads it again.
With an admin key, changes take only that key and the list only the other one. With several tokenizer workers each has
adapters and a list of its own, so that none can be loaded: `/server_info` tells, or a list that `list_stability` sees
change.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import httpx

from patio.bounded_json import read_json
from patio.engine.base import (
    Capacity,
    EngineError,
    EngineReason,
    EngineView,
    Loaded,
    PermanentError,
    RetryableError,
    is_transient,
    trial_name,
)
from patio.engine.http import LARGEST_ANSWER, EngineHttp, answered, unauthorized
from patio.engine.list_stability import ListStability
from patio_protocol.engines import EngineKind
from patio_protocol.error_text import bounded_text

_T = TypeVar("_T")

SWAPS = 5
"""Times that weights are unloaded and others loaded, before requests that bring the old ones back win."""
QUICK = 1.0
"""Seconds: a change that got no answer for longer waits for running requests, and its outcome is still to come."""
POLL_PAUSE = 0.02
"""Seconds between polls for the moment at which an unload has removed a name."""
LOAD = "/load_lora_adapter"
UNLOAD = "/unload_lora_adapter"
NO_RUNTIME_LOADING = (
    "SGLang answered 500 Internal Server Error. With --dp-size above 1 it does so, and cannot load adapters at run "
    "time."
)
SEVERAL_WORKERS = (
    "SGLang runs several tokenizer workers (--tokenizer-worker-num), and each has its own adapters. Start SGLang with "
    "--tokenizer-worker-num 1 to load adapters at run time."
)
UNSTABLE_LIST = (
    "SGLang's list of adapters changes from poll to poll. SGLang runs several tokenizer workers "
    "(--tokenizer-worker-num), each with its own adapters, or another client loads and unloads all the time."
)
NOT_LISTED = (
    "SGLang says that it has the adapter, but does not list it in /v1/models. SGLang lists adapters since 0.5.6. With "
    "several tokenizer workers (--tokenizer-worker-num), it lists those of one worker only. The sidecar does not rely "
    "on what it cannot read back."
)
_NO_KEY = "Set ENGINE_API_KEY or ENGINE_ADMIN_API_KEY in the sidecar"
_NO_ADMIN_KEY = "Set ENGINE_ADMIN_API_KEY in the sidecar, or correct ENGINE_API_KEY if the engine has only --api-key"
_OTHER_KEY = (
    "Set ENGINE_ADMIN_API_KEY in the sidecar to the engine's --admin-api-key, or unset it if the engine has only "
    "--api-key"
)
FACTS_RETRY_SECONDS = 30.0
"""Seconds between requests for the facts of a server that does not answer with them."""


class Sglang:
    """An SGLang server."""

    def __init__(
        self,
        endpoint: str,
        http: httpx.AsyncClient,
        api_key: str | None,
        admin_key: str | None,
        model: str | None,
        orders: httpx.AsyncClient | None = None,
    ) -> None:
        """`orders` is the client for loads and unloads; None: `http` is."""
        self._http = EngineHttp(endpoint, http, orders)
        self._key = api_key
        self._admin_key = admin_key or api_key
        self._remedy = _OTHER_KEY if admin_key is not None else _NO_KEY if api_key is None else _NO_ADMIN_KEY
        self._model = model
        self._facts: _Facts | None = None
        """What this life of the server was started with, once it has answered."""
        self._facts_polled_at = float("-inf")
        self._list = ListStability()
        self._orders = 0
        self._accepted: set[str] = set()
        """Names that it said to have loaded in this life."""

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
        """Ask `/ready` and the list."""
        view = await self._http.view(self._not_ready, self._listed)
        if not view.ready:
            self._facts, self._facts_polled_at = None, float("-inf")
        if not view.listening:
            self._list = ListStability()
            self._accepted.clear()
        return view

    async def _not_ready(self) -> EngineError | None:
        try:
            ready = await self._http.poll("/ready", self._key)
        except EngineError as error:
            return error
        if ready.is_success:
            return None
        if ready.status in (401, 403):
            return unauthorized("/ready", ready.status, "Set ENGINE_API_KEY in the sidecar")
        if ready.status != 404:
            message = f"SGLang is warming up, paused or stopping (/ready {answered(ready.status)})."
            return RetryableError(EngineReason.ENGINE_ERROR, message)
        # Older SGLang has no /ready: there, the list answers once the model is loaded.
        listed = await self._http.listed(self._key)
        return listed.error if listed.error is not None and not listed.error.permanent else None

    async def _listed(self) -> EngineView:
        """Read the list, unless it is only one of several or changes all the time."""
        view = await self._http.listed(self._key)
        now = time.monotonic()
        if view.adapters is None:
            return view
        if self._facts is None and now - self._facts_polled_at >= FACTS_RETRY_SECONDS:
            self._facts_polled_at = now
            with contextlib.suppress(EngineError):
                self._facts = await self._read_facts()
        message = SEVERAL_WORKERS if self._facts is not None and self._facts.tokenizers > 1 else None
        may_evict = self._facts is not None and self._facts.capacity.loaded is not None
        if message is None and self._list.observe(view.adapters.keys(), self._orders, may_evict=may_evict, now=now):
            message = UNSTABLE_LIST
        if message is None:
            return view
        return replace(
            view, adapters=None, trials=frozenset(), error=PermanentError(EngineReason.LORA_UNAVAILABLE, message)
        )

    async def load(self, name: str, path: str) -> Loaded:
        """Load under a free name, and return which adapters were evicted for it."""
        # Without --max-loaded-loras nothing is evicted, and the list may be long.
        may_evict = self._facts is None or self._facts.capacity.loaded is not None
        previous = (await self._http.listed(self._key)).adapters or {} if may_evict else {}
        try:
            loaded_names = await self._change(LOAD, {"lora_name": name, "lora_path": path})
        except _NameTakenError:
            await self._reject_unlisted(name)
            raise
        self._accepted.add(name)
        return Loaded() if loaded_names is None else Loaded(evicted=frozenset(previous.keys() - loaded_names - {name}))

    async def _reject_unlisted(self, name: str) -> None:
        """Raise `PermanentError` for a name that this server took, has, and lists not at all; it is let go."""
        view = await self._http.listed(self._key)
        if name not in self._accepted or view.adapters is None or name in view.adapters or name in view.trials:
            return
        self._accepted.discard(name)
        with contextlib.suppress(EngineError):
            await self.unload(name)
        raise PermanentError(EngineReason.NOT_LISTED, NOT_LISTED)

    async def replace(self, name: str, path: str) -> Loaded:
        """Try the weights, if that evicts nothing; then unload and load, more than once if requests are quicker."""
        if await self._evicts_nobody():
            await self._try(trial_name(name, path), path)
        for _ in range(SWAPS):
            try:
                return await self._swap(name, path)
            except _NameTakenError:
                continue
        message = f"Requests for {name} made SGLang load the old weights again {SWAPS} times before the new ones."
        raise RetryableError(EngineReason.ENGINE_ERROR, message)

    async def _try(self, trial: str, path: str) -> None:
        try:
            await self.load(trial, path)
        except _NameTakenError:
            # Left by a sidecar that died; the files may have changed since.
            await self.unload(trial)
            await self.load(trial, path)
        with contextlib.suppress(EngineError):  # then it is seen in the list, and taken away
            await self.unload(trial)

    async def _swap(self, name: str, path: str) -> Loaded:
        """Unload, and have the load wait behind it, before the requests that would bring the old weights back.

        SGLang 0.5.23 strikes the name off its list at once and then waits for its requests, as does the next
        call: the one lock is given in the order in which it was asked for. Requests may take longer than a call may.
        """
        unloading = asyncio.create_task(self._with_retries(partial(self.unload, name)), name=f"unload {name}")
        try:
            while not unloading.done():
                listed = (await self._http.listed(self._key)).adapters
                if listed is None or name not in listed:
                    break
                await asyncio.wait([unloading], timeout=POLL_PAUSE)
            loaded = await self._with_retries(partial(self.load, name, path))
            await unloading
            listed = (await self._http.listed(self._key)).adapters
            if listed is not None and name not in listed:
                # An unload that took too long was asked for again, behind the load, and took the new weights away.
                reloaded = await self._with_retries(partial(self.load, name, path))
                loaded = Loaded(evicted=loaded.evicted | reloaded.evicted)
        except _NameTakenError:
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

    async def _with_retries(self, change: Callable[[], Awaitable[_T]]) -> _T:
        """Ask for a change again as long as it takes an engine that is up too long to answer."""
        while True:
            started = time.monotonic()
            try:
                return await change()
            except RetryableError as error:
                slow = error.reason is EngineReason.UNREACHABLE and time.monotonic() - started > QUICK
                if not slow or not (await self.view()).ready:
                    raise

    async def _evicts_nobody(self) -> bool:
        """Whether one more adapter evicts no other, as far as the server says."""
        try:
            capacity = await self.capacity()
        except EngineError:
            return False
        return capacity.batch is not None and capacity.loaded is None

    async def unload(self, name: str) -> None:
        """Unload; SGLang 0.5.23 waits for running requests, without a limit of its own."""
        with contextlib.suppress(_NotLoadedError):
            await self._change(UNLOAD, {"lora_name": name})
        self._accepted.discard(name)

    async def capacity(self) -> Capacity:
        """Read the limits that the server was started with."""
        facts = self._facts or await self._read_facts()
        return Capacity() if facts is None else facts.capacity

    async def _read_facts(self) -> _Facts | None:
        answer = await self._http.poll("/server_info", self._key, LARGEST_ANSWER)
        if answer.status == 404:
            # The name that 0.5.23 deprecates is the only one that older versions have.
            answer = await self._http.poll("/get_server_info", self._key, LARGEST_ANSWER)
        try:
            info = read_json(answer.content, LARGEST_ANSWER) if answer.is_success and answer.whole else None
        except ValueError:
            return None
        return _facts(info) if isinstance(info, dict) else None

    def request_model(self, name: str, base_models: tuple[str, ...]) -> str | None:
        """Return `<base>:<adapter>`; the bare name is answered by the base model, with a 200."""
        base = self._model or next(iter(base_models), None)
        return None if base is None else f"{base}:{name}"

    async def _change(self, path: str, body: dict[str, object]) -> frozenset[str] | None:
        self._orders += 1
        try:
            answer = await self._http.change(path, self._admin_key, body)
        finally:
            self._orders += 1
        result = _read_result(answer.text)
        if answer.is_success and result.success:
            return result.loaded
        raise error_of_answer(path, answer.status, answer.text, self._remedy)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What `/server_info` says about adapters."""

    capacity: Capacity
    tokenizers: int


def _facts(info: dict[str, Any]) -> _Facts:
    # SGLang 0.5.23 without --enable-lora answers with its default of max_loras_per_batch all the same.
    lora_is_off = "enable_lora" in info and not info["enable_lora"]
    batch, loaded = _count(info.get("max_loras_per_batch")), _count(info.get("max_loaded_loras"))
    tokenizers = _count(info.get("tokenizer_worker_num")) or 1
    return _Facts(Capacity() if lora_is_off else Capacity(batch=batch, loaded=loaded), tokenizers)


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**31 else None


class _NotLoadedError(PermanentError):
    """An unload of what is not loaded."""


class _NameTakenError(RetryableError):
    """A load under a name that is loaded: by a request that came before, or by another client."""


@dataclass(frozen=True, slots=True)
class _ChangeResult:
    success: bool
    message: str | None
    loaded: frozenset[str] | None


def error_of_answer(path: str, status: int, text: str, key_remedy: str = _NO_KEY) -> EngineError:
    """Tell what to do next from SGLang's answer to a load or unload; `key_remedy` is the remedy for a 401."""
    engine_message = _read_result(text).message
    full_message = engine_message or (text.strip() if status >= 400 else "") or f"SGLang {answered(status)}."
    message = bounded_text(full_message)
    if status in (401, 403):
        return unauthorized(path, status, key_remedy)
    if status in (404, 405):
        message = f"This SGLang has no {path} (it answered {status}). It cannot load adapters at run time."
        return PermanentError(EngineReason.LORA_UNAVAILABLE, message)
    if "LoRA is not enabled" in message:
        return PermanentError(EngineReason.LORA_UNAVAILABLE, message)
    if path == UNLOAD and "does not exist" in message:
        return _NotLoadedError(EngineReason.ADAPTER_NOT_FOUND, message)
    if path == LOAD and "already loaded" in message:
        # The list that the call was based on is stale; the next poll corrects it.
        return _NameTakenError(EngineReason.ENGINE_ERROR, message)
    if "Repo id must be in the form" in message:
        # A missing path falls through to the hub, whose complaint hides what is wrong.
        message = f"The path does not exist in the engine's container, or is not a folder: {message}"
        return PermanentError(EngineReason.ADAPTER_NOT_FOUND, message)
    if "No such file or directory" in message or "cached snapshot folder" in message:
        return PermanentError(EngineReason.ADAPTER_NOT_FOUND, message)
    if status == 500 and message == "Internal Server Error":
        return PermanentError(EngineReason.LORA_UNAVAILABLE, NO_RUNTIME_LOADING)
    rejected = status < 500 and status not in (408, 425, 429) and (status >= 400 or engine_message is not None)
    if rejected and not is_transient(full_message):
        return PermanentError(EngineReason.ADAPTER_REJECTED, message)
    return RetryableError(EngineReason.ENGINE_ERROR, message)


def _read_result(text: str) -> _ChangeResult:
    """Read `{"success", "error_message", "loaded_adapters"}`, or the other shape of SGLang's errors."""
    try:
        body = read_json(text, LARGEST_ANSWER)
    except ValueError:
        return _ChangeResult(False, None, None)
    if not isinstance(body, dict):
        return _ChangeResult(False, None, None)
    message = body.get("error_message") or body.get("message")
    loaded = body.get("loaded_adapters")
    return _ChangeResult(
        success=body.get("success") is True,
        message=message if isinstance(message, str) else None,
        loaded=frozenset(loaded) if isinstance(loaded, dict) else None,
    )

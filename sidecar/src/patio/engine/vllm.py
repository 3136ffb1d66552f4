"""vLLM, as recorded of 0.32.0 (older ones where they differ).

Ready is `/health`; the list to trust is `/v1/models`. A 500 that says `Worker failed with error` is an adapter that
can never work; a 404 without vLLM's error shape is a server that may not change adapters at run time.
"""

from __future__ import annotations

import contextlib
import re

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
from patio.engine.http import LARGEST_ANSWER, LARGEST_METRICS, EngineHttp, answered, unauthorized
from patio_protocol.engines import EngineKind
from patio_protocol.error_text import bounded_text

LOAD = "/v1/load_lora_adapter"
UNLOAD = "/v1/unload_lora_adapter"
_MAX_LORAS = re.compile(r'^vllm:lora_requests_info\{[^\n]*\bmax_lora="(\d{1,9})"', re.MULTILINE)
RUNTIME_UPDATING_OFF = (
    "vLLM does not load adapters at run time. Start it with --enable-lora, with one API server (--api-server-count 1) "
    "and with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True."
)
_REJECTED = re.compile(r"Worker failed with error|^Call to add_lora method failed:")
"""vLLM 0.32: the first is put around the cause by the executor of several processes, the second around both by the
engine's core. One GPU has the executor `uni`, whose cause follows the second as it is."""


class Vllm:
    """A vLLM server."""

    def __init__(
        self, endpoint: str, http: httpx.AsyncClient, api_key: str | None, orders: httpx.AsyncClient | None = None
    ) -> None:
        """`orders` is the client for loads and unloads; None: `http` is."""
        self._http = EngineHttp(endpoint, http, orders)
        self._key = api_key

    @property
    def kind(self) -> EngineKind:
        """vLLM."""
        return EngineKind.VLLM

    @property
    def unloads_stick(self) -> bool:
        """They do."""
        return True

    @property
    def unloads_wait(self) -> bool:
        """They do not: running requests go on with the weights that they began with."""
        return False

    async def view(self) -> EngineView:
        """Ask `/health` and the list."""
        return await self._http.view(self._not_ready, self._listed)

    async def _not_ready(self) -> EngineError | None:
        try:
            health = await self._http.poll("/health", self._key)
        except EngineError as error:
            return error
        if health.is_success:
            return None
        if health.status in (401, 403):
            return unauthorized("/health", health.status, "Set ENGINE_API_KEY in the sidecar")
        return RetryableError(EngineReason.ENGINE_ERROR, f"vLLM's /health {answered(health.status)}.")

    async def _listed(self) -> EngineView:
        return await self._http.listed(self._key)

    async def load(self, name: str, path: str) -> Loaded:
        """Load under a free name."""
        await self._change(LOAD, {"lora_name": name, "lora_path": path})
        return Loaded()

    async def replace(self, name: str, path: str) -> Loaded:
        """Try the weights under a name of ours, then unload and load.

        vLLM 0.32's `load_inplace` would keep the adapter's number, so that running requests go on with other
        weights, and reads the files again for every batch. A new number lets them finish with the old ones.
        """
        await self._try(trial_name(name, path), path)
        await self.unload(name)
        return await self.load(name, path)

    async def _try(self, trial: str, path: str) -> None:
        try:
            await self.load(trial, path)
        except _AlreadyLoadedError:
            # Left by a sidecar that died; the files may have changed since.
            await self.unload(trial)
            await self.load(trial, path)
        with contextlib.suppress(EngineError):  # then it is seen in the list, and taken away
            await self.unload(trial)

    async def unload(self, name: str) -> None:
        """Unload; vLLM 0.32 answers at once and lets running requests finish."""
        try:
            await self._change(UNLOAD, {"lora_name": name})
        except PermanentError as error:
            if error.reason is not EngineReason.ADAPTER_NOT_FOUND:
                raise

    async def capacity(self) -> Capacity:
        """Read --max-loras from the one place where vLLM 0.32 has it: a metric's label, there after LoRA traffic."""
        answer = await self._http.poll("/metrics", self._key, LARGEST_METRICS)
        match = _MAX_LORAS.search(answer.text) if answer.is_success else None
        return Capacity(batch=None if match is None else int(match[1]))

    def request_model(self, name: str, base_models: tuple[str, ...]) -> str | None:
        """Return the adapter's own name."""
        return name

    async def _change(self, path: str, body: dict[str, object]) -> None:
        answer = await self._http.change(path, self._key, body)
        if not answer.is_success:
            raise error_of_answer(path, answer.status, answer.text)


class _AlreadyLoadedError(RetryableError):
    """The name is taken, so the list that the call was based on is stale."""


def error_of_answer(path: str, status: int, text: str) -> EngineError:
    """Tell what to do next from vLLM's answer to a load or unload."""
    engine_message = _message_of(text)
    if status in (401, 403):
        return unauthorized(path, status, "Set ENGINE_API_KEY in the sidecar")
    if status in (404, 405) and engine_message is None:
        return PermanentError(EngineReason.LORA_UNAVAILABLE, RUNTIME_UPDATING_OFF)
    full_message = engine_message or text.strip() or f"vLLM {answered(status)}."
    message = bounded_text(full_message)
    if status == 404:
        return PermanentError(EngineReason.ADAPTER_NOT_FOUND, message)
    if "LoRA is not enabled" in message:
        return PermanentError(EngineReason.LORA_UNAVAILABLE, f"{message} Start vLLM with --enable-lora.")
    if status == 400 and "already" in message and "loaded" in message:
        return _AlreadyLoadedError(EngineReason.ENGINE_ERROR, message)
    # vLLM 0.32 answers 500 to rank above --max-lora-rank, DoRA, no tensors, truncated files and a broken config.
    rejected = 400 <= status < 500 and status not in (408, 425, 429)
    if (rejected or _REJECTED.search(full_message)) and not is_transient(full_message):
        return PermanentError(EngineReason.ADAPTER_REJECTED, message)
    return RetryableError(EngineReason.ENGINE_ERROR, message)


def _message_of(text: str) -> str | None:
    """Return the message of vLLM's error shape, `{"error": {"message"}}` or, before 0.10, `{"message"}`."""
    try:
        body = read_json(text, LARGEST_ANSWER)
    except ValueError:
        return None
    if not isinstance(body, dict):
        return None
    error = body.get("error", body)
    message = error.get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else None

"""The HTTP that all engines have in common: one client, deadlines, the model list, faults that no engine words itself.

Below `vllm` and `sglang`, above httpx. It turns whatever the network does into `EngineError`s, and must never let
a key or an httpx exception out.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from patio.api.protocol import TRIAL_PREFIX
from patio.engine.base import EngineError, EngineView, FaultReason, PermanentError, RetryableError

LOOK_SECONDS = 2.0
"""Deadline of a look at the engine: readiness and its list."""
CHANGE_SECONDS = 300.0
"""Deadline of a load or unload. Generous: weights come from slow disks, and SGLang 0.5.23 unloads wait for requests."""
CONNECT_SECONDS = 2.0


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    root: str | None = None
    parent: str | None = None
    max_model_len: object = None
    """A number, of no weight here: whatever else it may be does not spoil the list."""


class _ModelList(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    data: tuple[_Entry, ...]


class EngineHttp:
    """An engine's HTTP side. The caller's client is used and stays open."""

    def __init__(self, endpoint: str, http: httpx.AsyncClient) -> None:
        self._endpoint = endpoint
        self._http = http

    async def look(self, path: str, key: str | None = None) -> httpx.Response:
        """GET; raise `RetryableError` when nobody answers."""
        return await self._send("GET", path, key, LOOK_SECONDS, None)

    async def change(self, path: str, key: str | None, body: Mapping[str, object]) -> httpx.Response:
        """POST; raise `RetryableError` when nobody answers."""
        return await self._send("POST", path, key, CHANGE_SECONDS, body)

    async def listed(self, key: str | None) -> EngineView:
        """Read `/v1/models` of an engine that is ready: entries with a parent are adapters, `root` is their path."""
        try:
            response = await self.look("/v1/models", key)
            if response.status_code == 401:
                raise unauthorized("/v1/models", "ENGINE_API_KEY")
            if not response.is_success:
                raise RetryableError(FaultReason.ENGINE_FAULT, f"/v1/models answered {response.status_code}.")
            models = _ModelList.model_validate_json(response.content).data
        except EngineError as fault:
            return EngineView(ready=True, adapters=None, fault=fault)
        except ValidationError:
            words = "/v1/models answered with something else than a model list."
            return EngineView(ready=True, adapters=None, fault=RetryableError(FaultReason.ENGINE_FAULT, words))
        base_models = [model for model in models if model.parent is None]
        context = base_models[0].max_model_len if base_models else None
        loaded = {model.id: model.root or "" for model in models if model.parent is not None}
        trials = frozenset(name for name in loaded if name.startswith(TRIAL_PREFIX))
        return EngineView(
            ready=True,
            base_models=tuple(model.id for model in base_models),
            base_roots=tuple(model.root for model in base_models if model.root),
            context_tokens=context if type(context) is int else None,
            adapters={name: path for name, path in loaded.items() if name not in trials},
            trials=trials,
        )

    async def _send(
        self, method: str, path: str, key: str | None, seconds: float, body: Mapping[str, object] | None
    ) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            return await self._http.request(method, self._endpoint + path, headers=headers, json=body, timeout=timeout)
        except httpx.ConnectError as error:
            raise NotListening(self._endpoint) from error
        except httpx.TimeoutException as error:
            words = f"The engine at {self._endpoint} did not answer {path} in time."
            raise RetryableError(FaultReason.UNREACHABLE, words) from error
        except httpx.HTTPError as error:
            words = f"The engine at {self._endpoint} broke off {path}: {str(error) or type(error).__name__}."
            raise RetryableError(FaultReason.UNREACHABLE, words) from error


class NotListening(RetryableError):  # noqa: N818 - a state of the engine, not a failure of ours
    """The port is closed: the engine is starting, stopping or gone, and holds no adapter."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(FaultReason.UNREACHABLE, f"Nothing listens at {endpoint}: the engine is not up.")


def down(fault: EngineError) -> EngineView:
    """Return the view of an engine that is not ready."""
    return EngineView(ready=False, listening=not isinstance(fault, NotListening), adapters=None, fault=fault)


def unauthorized(path: str, variable: str) -> PermanentError:
    """Return the fault of a key that is missing or wrong, naming the variable that mends it."""
    words = f"The engine refuses {path} without the right key (401 Unauthorized); set {variable} in the sidecar."
    return PermanentError(FaultReason.UNAUTHORIZED, words)

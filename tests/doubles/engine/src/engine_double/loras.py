"""SGLang's adapters: two orders, one lock, and requests that bring adapters back.

The registry (`/v1/models`) is in the order of last use, `loaded_adapters` in the order of loading. Whoever loads,
unloads, evicts or brings back holds the one lock, also while waiting for the requests in flight, which is how the
real server blocks. What can be wrong with an adapter is judged by `adapters`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from engine_double.adapters import Finding, inspect
from engine_double.batch import Batch
from engine_double.settings import Settings


class LoraError(Exception):
    """A rejection, with the adapters that are loaded; None where SGLang names none."""

    def __init__(self, message: str, loaded: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.loaded = loaded


@dataclass(frozen=True)
class Lora:
    """A loaded adapter."""

    path: str
    weights: str
    pinned: bool = False


class Loras:
    """All adapters of one server."""

    def __init__(self, settings: Settings, batch: Batch) -> None:
        self._settings = settings
        self._batch = batch
        self._lock = asyncio.Lock()
        self._registry: dict[str, Lora] = {}
        """In the order of last use."""
        self._load_order: dict[str, str] = {}
        self._ever_loaded: dict[str, Lora] = {}
        """Every adapter ever loaded; a request for one of them loads it again."""
        self.forget()

    def forget(self) -> None:
        """Back to the adapters of the start."""
        self._registry.clear()
        self._load_order.clear()
        self._ever_loaded.clear()
        for name, path in self._settings.lora_modules:
            self._register(name, Lora(path, inspect(path).digest))

    def listed(self) -> dict[str, str]:
        """As `/v1/models` lists them."""
        return {name: lora.path for name, lora in self._registry.items()}

    def in_load_order(self) -> dict[str, str]:
        """As `loaded_adapters` lists them."""
        return dict(self._load_order)

    def weights(self, name: str) -> str:
        """What answers for a loaded adapter."""
        return self._ever_loaded[name].weights

    async def load(self, name: str, path: str, *, pinned: bool = False) -> None:
        """Load an adapter; one too many evicts the least recently used."""
        async with self._lock:
            await self._load(name, path, pinned=pinned)

    async def unload(self, name: str) -> None:
        """Take it off the list at once, then wait until its last request is done."""
        async with self._lock:
            if name not in self._registry:
                raise LoraError(
                    f"LoRA with name {name} does not exist. Loaded LoRAs: odict_keys({list(self._registry)})"
                )
            await self._drop(name)

    async def use(self, name: str) -> None:
        """Make an adapter ready for a request, which may mean to load it again."""
        if name not in self._ever_loaded:
            raise LoraError(
                f"Got LoRA adapter that has never been loaded: {name}\n"
                f"All loaded adapters: dict_keys({list(self._ever_loaded)})."
            )
        if name not in self._registry:
            async with self._lock:
                if name not in self._registry:
                    earlier = self._ever_loaded[name]
                    try:
                        await self._load(name, earlier.path, pinned=earlier.pinned)
                    except LoraError as error:
                        raise LoraError(f"Failed to implicitly load LoRA adapter {name}: {error}") from error
        self._registry[name] = self._registry.pop(name)

    async def _load(self, name: str, path: str, *, pinned: bool) -> None:
        if name in self._registry:
            raise self._error(f"Failed to load LoRA adapter {name} because it is already loaded")
        weights = self._judge(name, path)
        pins = sum(1 for lora in self._registry.values() if lora.pinned)
        if pinned and pins + 1 >= self._settings.max_loras:
            raise self._error(
                f"Failed to load LoRA adapter {name} as a pinned adapter. It is not allowed to pin all slots in the "
                "LoRA memory pool to avoid starvation for unpinned adapters and base models. Please increase your "
                "`--max-loras-per-batch` or load it as unpinned LoRA adapters."
            )
        self._register(name, Lora(path, weights, pinned))
        limit = self._settings.max_loaded_loras
        if limit is not None and len(self._registry) > limit:
            victims = [candidate for candidate, lora in self._registry.items() if not lora.pinned and candidate != name]
            if victims:
                await self._drop(victims[0])

    async def _drop(self, name: str) -> None:
        del self._registry[name]
        await self._batch.idle(name)
        self._load_order.pop(name, None)

    def _register(self, name: str, lora: Lora) -> None:
        self._registry[name] = lora
        self._load_order[name] = lora.path
        self._ever_loaded[name] = lora

    def _judge(self, name: str, path: str) -> str:
        inspection = inspect(path)
        match inspection.finding:
            case Finding.NO_DIRECTORY | Finding.NOT_A_DIRECTORY if path.startswith("/") or path.count("/") > 1:
                # A path that is not there falls through to the hub.
                raise self._error(
                    f"Repo id must be in the form 'repo_name' or 'namespace/repo_name': '{path}'. Use `repo_type` "
                    "argument if needed."
                )
            case Finding.NO_DIRECTORY | Finding.NOT_A_DIRECTORY:
                raise self._error(
                    "Cannot find an appropriate cached snapshot folder for the specified revision on the local disk "
                    "and outgoing traffic has been disabled. To enable repo look-ups and downloads online, set "
                    "'HF_HUB_OFFLINE=0' as environment variable."
                )
            case Finding.NO_CONFIG:
                raise self._error(f"[Errno 2] No such file or directory: '{path}/adapter_config.json'")
            case Finding.BROKEN_CONFIG:
                raise self._error(inspection.detail)
        if inspection.dora:
            raise self._error(f"Failed to load {name} because LoRA serving currently doesn't support DoRA adapters")
        foreign = set(inspection.target_modules) - set(self._settings.lora_target_modules)
        if inspection.rank > self._settings.max_lora_rank or foreign:
            raise self._error(
                f"LoRA adapter {name} with rank {inspection.rank} is incompatible with the current LoRA memory pool "
                "configuration. Please ensure that the LoRA adapter's rank is within the configured `--max-lora-rank` "
                "and that the target modules are included in `--lora-target-modules`."
            )
        if inspection.finding is Finding.NO_WEIGHTS:
            raise self._error(f"Cannot find any model weights with `{path}`")
        if inspection.finding is Finding.BROKEN_WEIGHTS:
            raise self._error(inspection.detail)
        return inspection.digest

    def _error(self, message: str) -> LoraError:
        return LoraError(message, self.in_load_order())

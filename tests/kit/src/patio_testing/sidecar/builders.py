"""Small builders and waits that make the sidecar's tests readable."""

from __future__ import annotations

import asyncio
import json
import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from patio.access.metrics import AccessMetrics, Contact
from patio.adapters.desired import AdapterSpec, Desired, Key, LoadedWeights, Slot
from patio.adapters.executor import Attempt
from patio.adapters.metrics import AdapterMetrics
from patio.downloads.inventory import DiskUsage
from patio.downloads.metrics import DownloadMetrics
from patio.drain.metrics import DrainMetrics
from patio.engine.base import EngineView
from patio.engine.history import EngineHistory
from patio.metrics.engine_life import EngineLifeMetrics
from patio.metrics.readiness import ReadinessMetrics
from patio.metrics.self_metrics import SelfMetrics
from patio.readiness import BlockerKind
from patio_protocol.adapters import AdapterReport, AdapterState, LoadRequest
from patio_protocol.client import SidecarClient
from patio_testing.deadline import DEADLINE

_T = TypeVar("_T")


StartSidecar = Callable[..., AbstractAsyncContextManager[SidecarClient]]
"""The fixture `sidecar`: starts one beside a double."""


def adapter_files(folder: Path, *, rank: int = 8) -> str:
    """Write an adapter that engines accept (up to rank 16) and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    header = json.dumps({"q_proj.lora_A.weight": {"dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    return str(folder)


def load_request(name: str, path: str | None = "/adapters/x", **fields: Any) -> LoadRequest:
    return LoadRequest(lora_name=name, lora_path=path, **fields)


def wanted(name: str, path: str = "/adapters/x", *, held: str | None = None, **fields: Any) -> AdapterSpec:
    """Return a wanted adapter; `held` is the revision that the engine took last, from the same path."""
    if held is not None:
        fields["held"] = LoadedWeights(path, held)
    return AdapterSpec(name, path, **fields)


def desired(*adapters: AdapterSpec, leaving: frozenset[str] = frozenset()) -> Desired:
    return Desired({(adapter.name, Slot.ACTIVE): adapter for adapter in adapters}, leaving=leaving)


def active(desired: Desired) -> dict[str, AdapterSpec]:
    return desired.in_slot(Slot.ACTIVE)


def staged(desired: Desired) -> dict[str, AdapterSpec]:
    return desired.in_slot(Slot.STAGED)


def keyed(by_name: Mapping[str, _T], slot: Slot = Slot.ACTIVE) -> dict[Key, _T]:
    """Return a mapping of a snapshot, from one that has the names of adapters only."""
    return {(name, slot): value for name, value in by_name.items()}


def engine(adapters: Mapping[str, str] | None = None) -> EngineView:
    """Return the view of an engine that is up."""
    return EngineView(ready=True, base_models=("tiny",), adapters=adapters or {})


def sidecar_metrics(registry: CollectorRegistry, engine: str = "vllm") -> SelfMetrics:
    """Return the sidecar's own metrics and those of its features, with a load in them."""
    report = AdapterReport(lora_name="a", lora_path="/a", state=AdapterState.LOADED, reason="Loaded", since=0.0)
    AdapterMetrics(registry, lambda: (report,)).count_attempt(Attempt("load", "ok", "Loaded", 0.5))
    AccessMetrics(registry, True, lambda: Contact(1.7e9, 1.7e9))
    DownloadMetrics(registry, tuple, lambda: DiskUsage(1, 1, 1, 2))
    DrainMetrics(registry, lambda: False)
    ReadinessMetrics(registry, BlockerKind, tuple)
    EngineLifeMetrics(registry, engine, lambda: EngineHistory(start_seconds=1.0, model_name="tiny"))
    return SelfMetrics(registry, "1", engine, "v1")


async def eventually(check: Callable[[], Awaitable[Any]], what: str, every: float = 0.02) -> Any:
    """Return the first true value of `check`; fail with the last one seen."""
    until = time.monotonic() + DEADLINE
    while True:
        seen = await check()
        if seen:
            return seen
        if time.monotonic() > until:
            raise AssertionError(f"not within {DEADLINE:g} s: {what}; last seen: {seen!r}")
        await asyncio.sleep(every)

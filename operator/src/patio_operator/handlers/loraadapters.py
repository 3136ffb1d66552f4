"""LoraAdapters: any event of one wakes the planner of its namespace."""

from __future__ import annotations

from typing import Any

import kopf

from patio_operator.cluster.kinds import LORA_ADAPTER
from patio_operator.handlers import Wakers


def register(registry: kopf.OperatorRegistry) -> None:
    """Register the handlers of this kind."""

    @kopf.on.event(LORA_ADAPTER.group, LORA_ADAPTER.version, LORA_ADAPTER.plural, registry=registry)
    async def on_lora_adapter(namespace: str | None, memo: Wakers, **_: Any) -> None:
        assert namespace is not None  # kopf types it for cluster-scoped kinds too
        memo.adapters(namespace)

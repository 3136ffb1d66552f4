"""Builders of the objects that the operator's tests talk about, with what a test does not care about filled in."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from patio.api.protocol import AdapterList, AdapterReport, AdapterState, LoadRequest
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.placement.fleet import Pod, Seen

NOW = datetime(2026, 11, 21, 12, 0, 0, tzinfo=UTC)


def lora_adapter(name: str = "sql", *, uri: str = "file:///adapters/sql", **changes: Any) -> LoraAdapter:
    """A LoraAdapter in `team` for the pods labelled `app: vllm`; `changes` are fields of its spec, or metadata."""
    metadata = {
        "name": name,
        "namespace": "team",
        "uid": f"uid-{name}",
        "generation": 1,
        "creationTimestamp": "2026-11-21T10:00:00Z",
        "finalizers": ["patio.dev/unload"],
    } | changes.pop("metadata", {})
    spec = {"source": {"uri": uri}, "selector": {"matchLabels": {"app": "vllm"}}} | changes
    return LoraAdapter.model_validate({"metadata": metadata, "spec": {k: v for k, v in spec.items() if v is not None}})


def pod(name: str = "pod-0", *, leaving: bool = False, ip: str | None = "10.0.0.1", **labels: str) -> Pod:
    """A running pod with a sidecar, labelled `app: vllm` unless labels are given."""
    return Pod("team", name, f"uid-{name}", "node-a", labels or {"app": "vllm"}, ip, leaving=leaving)


def report(
    request: LoadRequest, state: AdapterState = AdapterState.LOADED, *, reason: str = "", message: str = ""
) -> AdapterReport:
    """What a sidecar reports of an adapter that was ordered with `request`."""
    return AdapterReport(
        lora_name=request.lora_name,
        lora_path=request.lora_path,
        owner=request.owner,
        revision=request.revision,
        state=state,
        reason=reason or state.value,
        message=message,
        retryable=state is not AdapterState.FAILED,
        since=0.0,
    )


def seen(*reports: AdapterReport, base_models: tuple[str, ...] = ("tiny",)) -> Seen:
    """A sidecar that answered with these reports."""
    answer = AdapterList(revision="b-1", engine="vllm", engine_ready=True, base_models=base_models, adapters=reports)
    return Seen(answer, ever_answered=True)

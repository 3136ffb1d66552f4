"""Builders of the objects that the operator's tests talk about, with what a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from patio_api.labels import owners_of
from patio_api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.observation import Observation
from patio_operator.pods.engine_pod import EnginePod
from patio_protocol.adapters import (
    AdapterCapacity,
    AdapterList,
    AdapterReport,
    AdapterState,
    LoadRequest,
    PreparedReport,
)

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


def pod(
    name: str = "pod-0",
    *,
    node: str = "node-a",
    serving: Iterable[str] = (),
    ready: bool = True,
    leaving: bool = False,
    ip: str | None = "10.0.0.1",
    **labels: str,
) -> EnginePod:
    """A running pod with a sidecar, labelled `app: vllm` unless labels are given.

    `serving` are those of LoraAdapters that are called as their adapters.
    """
    shown, is_labelled = labels or {"app": "vllm"}, frozenset(serving)
    owners = owners_of((adapter, f"uid-{adapter}") for adapter in is_labelled)
    return EnginePod(
        "team", name, f"uid-{name}", node, shown, ip, leaving=leaving, ready=ready, serving=is_labelled, owners=owners
    )


def report(
    request: LoadRequest,
    state: AdapterState = AdapterState.LOADED,
    *,
    reason: str = "",
    message: str = "",
    held: str | None = None,
    prepared: PreparedReport | None = None,
    since: float = 0.0,
) -> AdapterReport:
    """What a sidecar reports of an adapter that was ordered with `request`; `held` is the revision that answers."""
    return AdapterReport(
        lora_name=request.lora_name,
        lora_path=request.lora_path,
        source=request.source,
        owner=request.owner,
        revision=request.revision,
        state=state,
        reason=reason or state.value,
        message=message,
        retryable=state is not AdapterState.FAILED,
        held_revision=request.revision if held is None and state is AdapterState.LOADED else held,
        prepared=prepared,
        credentials_revision=request.credentials_revision,
        since=since,
    )


def seen(
    *reports: AdapterReport,
    base_models: tuple[str, ...] = ("tiny",),
    room: int | None = None,
    batch: int | None = None,
    engine_ready: bool = True,
    on_disk: tuple[str, ...] = (),
) -> Observation:
    """A sidecar that answered with these reports; `room` is for how many adapters its engine was started."""
    answer = AdapterList(
        revision="b-1",
        engine="vllm",
        engine_ready=engine_ready,
        base_models=base_models,
        adapters=reports,
        capacity=AdapterCapacity(loaded=room, batch=batch),
        on_disk=on_disk,
    )
    return Observation(answer, ever_answered=True)  # type: ignore[arg-type]  # it has all that an `Answer` has


def silent(sidecar: Observation, since: datetime = NOW) -> Observation:
    """The same sidecar, once it has stopped answering."""
    return Observation(
        None, "It does not answer.", ever_answered=True, unreachable_since=since, last=sidecar.answer or sidecar.last
    )


def review_status(namespace: str, pod_uid: str, **changes: Any) -> dict[str, Any]:
    """The status of the TokenReview of a sidecar's token, as the API server gives it."""
    user = {
        "username": f"system:serviceaccount:{namespace}:default",
        "uid": "sa-1",
        "groups": ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"],
        "extra": {
            "authentication.kubernetes.io/pod-name": ["pod-0"],
            "authentication.kubernetes.io/pod-uid": [pod_uid],
        },
    }
    return {"authenticated": True, "user": user, "audiences": ["patio.dev/sidecar"], **changes}

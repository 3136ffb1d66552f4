"""ModelEndpoints, their groups and pods, with what a test does not care about filled in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from patio_api.model_endpoint import ModelEndpoint
from patio_operator.modelendpoints.planner import naming, objects
from patio_operator.modelendpoints.planner.snapshot import ObservedGroup, ObservedPod, PodState, Snapshot, decode_group

NOW = datetime(2026, 11, 27, 12, 0, 0, tzinfo=UTC)
CREATED = "2026-11-27T10:00:00Z"
IMAGES = {"vllm": "registry.example.com/vllm:1", "sglang": "registry.example.com/sglang:1"}
SIDECARS = {"patio": "patio"}
SPLIT: dict[str, Any] = {
    "engine": "sglang",
    "roles": [{"type": "prefill"}, {"type": "decode", "perWorker": 2}],
    "router": {"image": "registry.example.com/router:1"},
}
"""Fields of a spec with prefill and decode apart."""


def endpoint(
    name: str = "qwen", *, metadata: dict[str, Any] | None = None, status: dict[str, Any] | None = None, **spec: Any
) -> ModelEndpoint:
    """A ModelEndpoint in `team` with two workers; `spec` are fields of its spec."""
    return ModelEndpoint.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "team",
                "uid": f"uid-{name}",
                "generation": 1,
                "creationTimestamp": CREATED,
            }
            | (metadata or {}),
            "spec": {"model": {"uri": "hf://Qwen/Qwen3-8B"}, "workers": {"replicas": 2, "max": 8}} | spec,
            "status": status or {},
        }
    )


def snapshot(
    of: ModelEndpoint, groups: Iterable[ObservedGroup] = (), pods: Iterable[ObservedPod] = (), **fields: Any
) -> Snapshot:
    """What there is of an endpoint."""
    defaults = {"sidecars": SIDECARS, "images": IMAGES, "now": NOW}
    return Snapshot(of, groups=tuple(groups), pods=tuple(pods), **(defaults | fields))


def group(of: ModelEndpoint, workers: int, status: dict[str, str] | None = None, **fields: Any) -> ObservedGroup:
    """The group of a revision, as it was made; `status` has reason and message of why it is not Ready."""
    body = objects.role_based_group(of, workers, SIDECARS, IMAGES)
    body["metadata"] |= {
        "uid": f"uid-{body['metadata']['name']}",
        "resourceVersion": "7",
        "creationTimestamp": CREATED,
    } | fields
    if status is not None:
        body["status"] = {"conditions": [{"type": "Ready", "status": "False"} | status]}
    return decode_group(body)


def pod(of: ModelEndpoint, index: int, state: PodState = PodState.READY, **fields: Any) -> ObservedPod:
    """A pod of its server role."""
    name = naming.group(of, naming.revision(of))
    defaults: dict[str, Any] = {
        "role": "server",
        "leads": True,
        "message": "",
        "since": NOW - timedelta(minutes=1),
        "injected": True,
        "leaving": False,
    }
    fields = defaults | fields
    full_name = f"{name}-{fields['role']}-{index}"
    return ObservedPod(name=full_name, uid=f"uid-{full_name}", group=name, index=index, state=state, **fields)


def ready(of: ModelEndpoint, workers: int) -> list[ObservedPod]:
    """So many pods that answer."""
    return [pod(of, index) for index in range(workers)]

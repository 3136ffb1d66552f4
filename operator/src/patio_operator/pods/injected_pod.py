"""What the cache keeps of an injected pod: no more than its readers need, within bounds. Pure.

A thousand pods as the API server sends them are tens of megabytes; as they are kept here, one or two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_object
from patio_operator.pods.engine_pod import EnginePod, decode_engine_pod
from patio_operator.pods.profile_use import ProfileUse, use_of

LONGEST_NAMES = 65_536
"""Characters that are kept of a pod's annotation with the names of its adapters."""


@dataclass(frozen=True)
class CachedPod:
    """A pod with a sidecar."""

    pod: EnginePod
    use: ProfileUse | None
    """Which profiles it has, and what would recreate it; None of one that is going or has ended."""
    engine_port: int | None
    """Where its engine listens, as injection found out."""
    model: str | None
    """The name under which its engine serves its base model, as injection found out."""
    names: str | None
    """The annotation that keeps the whole names of its adapters."""


def decode_pod(body: Mapping[str, Any]) -> CachedPod:
    """Reduce a pod with a sidecar.

    Raises:
        ValueError: it has more labels than are kept of one.

    """
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    labels.bounded_labels(metadata)
    names = annotations.get(labels.ADAPTER_NAMES)
    if names is not None and len(names) > LONGEST_NAMES:
        names = ""
    pod = decode_engine_pod(body)
    use = None if pod.leaving else use_of(metadata)
    port, model = _engine(annotations)
    return CachedPod(pod, use, port, model, names)


def _engine(annotations: Mapping[str, str]) -> tuple[int | None, str | None]:
    """Read the engine's port and model, as far as the annotation has them: anybody may have written it."""
    annotation = read_object(annotations.get(labels.ENGINE))
    port, model = annotation.get("port"), annotation.get("model")
    is_port = isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    return port if is_port else None, model if isinstance(model, str) else None

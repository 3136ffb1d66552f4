"""What the cache keeps of a LoraAdapter: its spec within a bound, and what its status says.

`status_writer` compares with it, so that nothing is written that is there already.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from patio_api.loraadapter import LoraAdapter
from patio_kube.client import Object
from patio_kube.resources import LORA_ADAPTER
from patio_operator.loraadapters.planner.status import RecordedStatus, recorded

log = logging.getLogger(__name__)

LONGEST_SPEC = 65_536
"""Characters of a LoraAdapter's spec. What is larger is left out: the cache is in the memory of every replica."""
_NOT_KEPT = ("labels", "annotations", "managedFields")


@dataclass(frozen=True)
class CachedAdapter:
    """A LoraAdapter."""

    adapter: LoraAdapter
    """Without its status."""
    status: RecordedStatus
    """What its status says."""

    @property
    def reference(self) -> Object:
        """The object as events about it and writes to it want it."""
        metadata = self.adapter.metadata
        return {
            "apiVersion": LORA_ADAPTER.api_version,
            "kind": LORA_ADAPTER.kind,
            "metadata": {
                "name": metadata.name,
                "namespace": metadata.namespace,
                "uid": metadata.uid,
                "resourceVersion": metadata.resource_version,
            },
        }


def decode_adapter(body: Object) -> CachedAdapter:
    """Reduce a LoraAdapter.

    Raises:
        ValueError: it is not as the CRD's schema says now, or larger than what is kept of one.

    """
    size = len(json.dumps(body.get("spec")))
    if size > LONGEST_SPEC:
        raise ValueError(f"its spec has {size} characters, more than {LONGEST_SPEC}")
    metadata = {key: value for key, value in body["metadata"].items() if key not in _NOT_KEPT}
    adapter = LoraAdapter.model_validate({"metadata": metadata, "spec": body.get("spec")})
    return CachedAdapter(adapter, recorded(body.get("status") or {}))


def adapters_in(bodies: Iterable[Object]) -> tuple[LoraAdapter, ...]:
    """Return the LoraAdapters among some that can be read; the others are logged."""
    found: list[LoraAdapter] = []
    for body in bodies:
        try:
            found.append(decode_adapter(body).adapter)
        except (ValueError, RecursionError) as error:
            metadata = body["metadata"]
            log.error(
                "LoraAdapter %s/%s cannot be read: %s",
                metadata.get("namespace"),
                metadata.get("name"),
                str(error)[:500],
            )
    return tuple(found)

"""What the process knows of the cluster by its watches: of each object what planners and admissions need, and no more.

A thousand pods as the API server tells them are tens of megabytes; as they are kept here, one or two. One watch for a
kind and scope, in every replica: `Known.run` keeps them all. Nothing here decides.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from patio_operator.api import labels
from patio_operator.api.bounded_json import read_object
from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.cluster.api import Cluster, Object, Scope
from patio_operator.cluster.kinds import LORA_ADAPTER, POD, SERVICE
from patio_operator.cluster.watched import Watched
from patio_operator.placement.fleet import Pod, decode_pod
from patio_operator.placement.services import KnownService, decode_service
from patio_operator.placement.status import Told, told
from patio_operator.rollouts.users import profiles_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class KnownPod:
    """A pod with a sidecar."""

    pod: Pod
    profiles: Mapping[str, str]
    """The revision of each profile that it got."""
    engine_port: int | None
    """Where its engine listens, as injection found out."""
    model: str | None
    """The name under which its engine serves its base model, as injection found out."""
    names: str | None
    """The annotation that keeps the whole names of its adapters."""


@dataclass(frozen=True)
class KnownAdapter:
    """A LoraAdapter."""

    adapter: LoraAdapter
    """Without its status."""
    status: Told
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


class Known:
    """The watches."""

    def __init__(self, cluster: Cluster) -> None:
        injected = Scope(labels=f"{labels.INJECTED}=true")
        ours = Scope(labels=labels.ADAPTER_SERVICE)
        of_groups = Scope(labels=labels.GROUP_NAME, metadata_only=True)
        self.pods = Watched(cluster, POD, decode_known_pod, injected)
        self.adapters = Watched(cluster, LORA_ADAPTER, decode_adapter)
        self.services: Watched[KnownService] = Watched(cluster, SERVICE, decode_service, ours)
        self.group_pods = Watched(cluster, POD, decode_group_pod, of_groups)

    def watches(self) -> list[Coroutine[Any, Any, None]]:
        """Return what keeps everything up to date, until cancelled."""
        return [self.pods.run(), self.adapters.run(), self.services.run(), self.group_pods.run()]

    @property
    def fresh(self) -> bool:
        """Whether what LoraAdapters are planned from is as it is in the API server."""
        return self.pods.fresh and self.adapters.fresh

    async def refresh(self) -> None:
        """Have everything read anew that LoraAdapters are planned from."""
        await asyncio.gather(self.pods.refresh(), self.adapters.refresh())


def decode_known_pod(body: Object) -> KnownPod:
    """Reduce a pod with a sidecar."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    port, model = _engine(annotations)
    return KnownPod(decode_pod(body), profiles_in(metadata), port, model, annotations.get(labels.ADAPTER_NAMES))


def decode_adapter(body: Object) -> KnownAdapter | None:
    """Reduce a LoraAdapter; None for one that cannot be read, which is logged."""
    status = body.get("status") or {}
    try:
        adapter = LoraAdapter.model_validate({"metadata": body["metadata"], "spec": body["spec"]})
    except (ValidationError, KeyError) as error:
        # The CRD's schema refuses such objects; one that was stored under an older schema must not stop the others.
        metadata = body["metadata"]
        log.error("LoraAdapter %s/%s cannot be read: %s", metadata.get("namespace"), metadata.get("name"), error)
        return None
    return KnownAdapter(adapter, told(status))


def decode_group_pod(body: Object) -> tuple[str, str]:
    """Reduce a pod of a RoleBasedGroup to the group's name and the pod's version: each change is one."""
    metadata = body["metadata"]
    return metadata["labels"][labels.GROUP_NAME], metadata["resourceVersion"]


def _engine(annotations: Mapping[str, str]) -> tuple[int | None, str | None]:
    """Read the engine's port and model, as far as the annotation has them: anybody may have written it."""
    said = read_object(annotations.get(labels.ENGINE))
    port, model = said.get("port"), said.get("model")
    there = isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536
    return port if there else None, model if isinstance(model, str) else None

"""The labels and annotations by which Patio and RoleBasedGroup objects are found: one place for their
spelling."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from patio_api.bounded_json import read_object

FIELD_MANAGER = "patio-operator"
"""Under which the operator writes objects, so that they show what is its work."""

PROFILE = "patio.dev/profile"
"""Label by which a pod asks for a profile: its name."""
ENGINE_RUNTIMES = "patio.dev/engine-runtimes"
"""Label ("true") and annotation (JSON list of a role's engineRuntimes) by which a role's pods ask for
profiles."""
INJECTED = "patio.dev/injected"
"""Label ("true") of every injected pod, and annotation: the revision of each profile it got, as a JSON
object."""
ENGINE = "patio.dev/engine"
"""Annotation of an injected pod: what the sidecar knows about the engine, and which of that was guessed.
"""
ROTATE = "patio.dev/rotate"
"""Annotation on the Secret of the signing key, or of the webhook's certificate, that asks for a new key, whatever its
value."""

ROLL_AT_ONCE = "patio.dev/roll-at-once"
"""Annotation of a profile: how many workloads a change of it rolls at once. Default: 1."""
ROLLED = "patio.dev/rolled-profiles"
"""Annotation of a workload's pod template: the revision of each profile that it was last rolled for, as a JSON object.
"""
ROLLED_ROLES = "patio.dev/rolled-roles"
"""Annotation of a RoleBasedGroup: the same for each of its leader-worker roles, as a JSON object of such objects."""

_NEW = "rbg.workloads.x-k8s.io/"
_OLD = "rolebasedgroup.workloads.x-k8s.io/"

GROUP_NAME = _NEW + "group-name"
ROLE_NAME = _NEW + "role-name"
GROUP_UID = _NEW + "group-uid"
ROLE_SIZE = _NEW + "role-size"
ROLE_INSTANCE_NAME = _NEW + "role-instance-name"
ROLE_INSTANCE_INDEX = _NEW + "role-instance-index"
COMPONENT_NAME = _NEW + "component-name"
COMPONENT_ID = _NEW + "component-id"
COMPONENT_INDEX = _NEW + "component-index"
COMPONENT_SIZE = _NEW + "component-size"
ROLE_WORKLOAD_TYPE = _NEW + "role-workload-type"
ROLE_INSTANCE_PATTERN = _NEW + "role-instance-pattern"
ROLE_INSTANCE_GANG = _NEW + "role-instance-gang-scheduling"
ROLE_INPLACE_SCHEDULING = _NEW + "role-inplace-scheduling"
GROUP_GANG = _NEW + "group-gang-scheduling"
GROUP_GANG_TIMEOUT = GROUP_GANG + "-timeout"
GROUP_GANG_QUEUE = GROUP_GANG + "-volcano-queue"
GROUP_GANG_PRIORITY = GROUP_GANG + "-volcano-priority"
GROUP_EXCLUSIVE_TOPOLOGY = _NEW + "group-exclusive-topology"
OLD_EXCLUSIVE_TOPOLOGY = _OLD + "exclusive-topology"
KEPT_POD_GROUP_POLICY = "conversion.workloads.x-k8s.io/v1alpha1-pod-group-policy"
KEPT_COORDINATION = "conversion.workloads.x-k8s.io/v1alpha1-coordination"
"""Annotations in which conversion keeps, as upstream does, what v1alpha2 has no field for."""
OLD_GROUP_NAME = _OLD + "name"
OLD_ROLE_NAME = _OLD + "role"
PORT_ALLOCATOR = _OLD + "port-allocator"
COMPONENT_DISCOVERY = _OLD + "component-discovery"
COMPONENT_DEPENDS_ON = _OLD + "component-depends-on"

OLD_COMPONENT_INDEX = "component.rolebasedgroup.workloads.x-k8s.io/index"
LWS_WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"

HAND_OVER = "patio.dev/hand-over"
"""Annotation ("true") of a RoleBasedGroup: Patio deletes what it made of it and leaves it to upstream's controller."""
INSTANCES = "patio.dev/instances"
"""Annotation of a group's ConfigMap: what is remembered of its leader-worker instances from pass to pass."""

POD_REVISION = "controller-revision-hash"
"""Label of a pod: the revision of its workload's template that it was made from. Set by Kubernetes on the pods of a
StatefulSet, by Patio on those it makes itself."""
SERVICE_OF_SLICE = "kubernetes.io/service-name"
MANAGER_OF_SLICE = "endpointslice.kubernetes.io/managed-by"
POD_INDEX = "apps.kubernetes.io/pod-index"
"""Set by Kubernetes on the pods of a StatefulSet."""

LWS_NAME = "leaderworkerset.sigs.k8s.io/name"
"""On the pods of a LeaderWorkerSet."""
LWS_LEADER_NAME = "leaderworkerset.sigs.k8s.io/leader-name"
"""Annotation of the pods of a LeaderWorkerSet that are not leaders: their leader's name."""
LWS_GROUP_INDEX = "leaderworkerset.sigs.k8s.io/group-index"
"""Which of its groups of pods a pod is of; set by LeaderWorkerSet's own webhook, perhaps after ours."""

ADAPTER_PREFIX = "lora.patio.dev/"
"""Of the labels that a pod has for each adapter that its engine answers by: `lora.patio.dev/<name>: loaded`."""
ADAPTER_LOADED = "loaded"
"""Their value."""
ADAPTER_OWNER_PREFIX = "owner.lora.patio.dev/"
"""Of the labels that say whose adapter each of these is: `owner.lora.patio.dev/<UID of the LoraAdapter>: <name>`. Two
LoraAdapters may have one name on different pods; by this label a Service selects the pods of one of them."""
ADAPTER_NAMES = ADAPTER_PREFIX + "names"
"""Annotation of a pod: the whole names of the adapters whose labels are hashed, as a JSON object by label key."""
LONGEST_LABELS = 16_384
"""Characters of an object's labels that caches keep, those of adapters left out."""
LONGEST_ADAPTER_LABELS = 262_144
"""Characters of a pod's labels of adapters: enough for 1,000 adapters with two labels each, whatever their names."""
ADAPTER_SERVICE = "patio.dev/adapter-service"
"""Label ("true") of the Services that LoraAdapters have made, by which the operator finds them."""

_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_LABEL_LENGTH = 63


def group_and_role(labels: Mapping[str, str]) -> tuple[str, str] | None:
    """Say which role of which group a pod belongs to, by the labels of either generation of RoleBasedGroup."""
    for group, role in ((GROUP_NAME, ROLE_NAME), (OLD_GROUP_NAME, OLD_ROLE_NAME)):
        if group in labels and role in labels:
            return labels[group], labels[role]
    return None


def adapter_label(name: str) -> str:
    """Return the key of the label that says that a pod has an adapter, by the adapter's name in requests.

    A name that cannot be a label's becomes its beginning and a hash of the whole.
    """
    if _LABEL_NAME.fullmatch(name):
        return ADAPTER_PREFIX + name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    beginning = re.sub(r"[^A-Za-z0-9._-]", "-", name)[: _LABEL_LENGTH - len(digest) - 1].lstrip("._-")
    return f"{ADAPTER_PREFIX}{beginning}-{digest}" if beginning else ADAPTER_PREFIX + digest


def adapter_labels(name: str, owner: str) -> dict[str, str]:
    """Return the labels of the pods that have the adapter of one LoraAdapter.

    Args:
        name: the adapter's, in requests.
        owner: UID of the LoraAdapter.

    """
    key = adapter_label(name)
    return {key: ADAPTER_LOADED, ADAPTER_OWNER_PREFIX + owner: key.removeprefix(ADAPTER_PREFIX)}


def adapter_selector(name: str, owner: str) -> str:
    """Return the label selector of the pods that have the adapter of one LoraAdapter, as text."""
    return ",".join(f"{key}={value}" for key, value in adapter_labels(name, owner).items())


def adapters_shown(labels: Mapping[str, str], annotations: Mapping[str, str]) -> frozenset[str]:
    """Return the names of the adapters that a pod's labels show."""
    keys = [key for key, value in labels.items() if key.startswith(ADAPTER_PREFIX) and value == ADAPTER_LOADED]
    if not keys:
        return frozenset()
    names = _whole_names(annotations)
    return frozenset(sys.intern(names.get(key, key.removeprefix(ADAPTER_PREFIX))) for key in keys)


def owners_shown(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """Return whose adapters a pod's labels show: UIDs of LoraAdapters, each with the label's value."""
    start = len(ADAPTER_OWNER_PREFIX)
    return frozenset(
        (sys.intern(key[start:]), value) for key, value in labels.items() if key.startswith(ADAPTER_OWNER_PREFIX)
    )


def owners_of(adapters: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """Return what `owners_shown` is of a pod that shows these: the adapters' names, each with its LoraAdapter's UID."""
    return frozenset((owner, adapter_label(name).removeprefix(ADAPTER_PREFIX)) for name, owner in adapters)


def serving_labels_patch(
    metadata: Mapping[str, Any], names: Iterable[str], owners: Iterable[tuple[str, str]] = ()
) -> dict[str, Any]:
    """Return the merge patch after which a pod shows exactly these adapters; empty when it does already.

    Args:
        metadata: the pod's, as the API server gives it.
        names: the adapters' names in requests.
        owners: whose they are (`owners_of`).

    """
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    named = {adapter_label(name): name for name in names}
    wanted = dict.fromkeys(named, ADAPTER_LOADED) | {ADAPTER_OWNER_PREFIX + uid: value for uid, value in owners}
    changed: dict[str, str | None] = {key: value for key, value in wanted.items() if labels.get(key) != value}
    changed |= {key: None for key, value in labels.items() if _is_serving_label(key, value) and key not in wanted}
    hashed = {key: name for key, name in sorted(named.items()) if key != ADAPTER_PREFIX + name}
    patch: dict[str, Any] = {}
    if changed:
        patch["labels"] = changed
    text = json.dumps(hashed) if hashed else None
    if annotations.get(ADAPTER_NAMES) != text:
        patch["annotations"] = {ADAPTER_NAMES: text}
    return {"metadata": patch} if patch else {}


def bounded_labels(metadata: Mapping[str, Any]) -> Mapping[str, str]:
    """Return an object's labels.

    The labels of adapters have a bound apart: a pod with 1,000 adapters has 2,000 of them.

    Raises:
        ValueError: they are longer than what a cache keeps of one object.

    """
    labels: Mapping[str, str] = metadata.get("labels") or {}
    total = sum(len(key) + len(value) for key, value in labels.items())
    if total > LONGEST_LABELS:
        of_adapters = sum(
            len(key) + len(value)
            for key, value in labels.items()
            if key.startswith((ADAPTER_PREFIX, ADAPTER_OWNER_PREFIX))
        )
        if of_adapters > LONGEST_ADAPTER_LABELS:
            raise ValueError(
                f"its labels of adapters have {of_adapters} characters, more than {LONGEST_ADAPTER_LABELS}"
            )
        if total - of_adapters > LONGEST_LABELS:
            raise ValueError(f"its labels have {total - of_adapters} characters, more than {LONGEST_LABELS}")
    return labels


def _is_serving_label(key: str, value: str) -> bool:
    return key.startswith(ADAPTER_OWNER_PREFIX) or (key.startswith(ADAPTER_PREFIX) and value == ADAPTER_LOADED)


def _whole_names(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the names that the annotation keeps, of those that fit their labels: anybody may have written it."""
    names = read_object(annotations.get(ADAPTER_NAMES))
    return {key: name for key, name in names.items() if isinstance(name, str) and adapter_label(name) == key}

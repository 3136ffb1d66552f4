"""RoleBasedGroups from one API version to the other: `to_v1alpha2` and `to_v1alpha1`, from object to object.

Called by the conversion webhook, for everybody who reads or writes v1alpha1. Fields that both versions have in other
words are translated as upstream does. What a version has no words for is kept in an annotation of the object
(`round_trip`), so that there and back again nothing is lost, and neither is what the other side has that an edit did
not touch. Objects are plain dictionaries: unknown fields pass through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_json
from patio_operator.groups import round_trip

Object = dict[str, Any]

V1ALPHA1 = "workloads.x-k8s.io/v1alpha1"
V1ALPHA2 = "workloads.x-k8s.io/v1alpha2"

ONLY_IN_V1ALPHA1 = "conversion.patio.dev/only-in-v1alpha1"
"""Annotation of a v1alpha2 object: what it has as v1alpha1 and cannot say itself."""
ONLY_IN_V1ALPHA2 = "conversion.patio.dev/only-in-v1alpha2"
"""The same the other way round."""

_DEFAULT_WORKLOAD = {"apiVersion": "apps/v1", "kind": "StatefulSet"}
_ROLE_INSTANCE_SET = {"apiVersion": V1ALPHA2, "kind": "RoleInstanceSet"}
"""What a v1alpha2 role is made of that does not say."""
_WORKLOAD = re.compile(r"([a-z0-9][-a-z0-9.]*/v[0-9]+(?:(?:alpha|beta)[0-9]+)?)/([^/]+)")
_DELAYS = {"baseDelaySeconds": 30, "maxDelaySeconds": 600}
"""Defaults of the v1alpha2 schema."""


class ConversionError(Exception):
    """There is no such version to convert from or to."""


def convert(body: Mapping[str, Any], version: str) -> Object:
    """Return a RoleBasedGroup in an API version, e.g. `workloads.x-k8s.io/v1alpha1`.

    Raises:
        ConversionError: the version that it is in, or the one that is wanted, is not known.

    """
    if body["apiVersion"] == version:
        return _copied(body)
    if (body["apiVersion"], version) == (V1ALPHA1, V1ALPHA2):
        return to_v1alpha2(body)
    if (body["apiVersion"], version) == (V1ALPHA2, V1ALPHA1):
        return to_v1alpha1(body)
    raise ConversionError(f"a RoleBasedGroup cannot be converted from {body['apiVersion']} to {version}")


def to_v1alpha2(body: Mapping[str, Any]) -> Object:
    """Return a v1alpha1 object as v1alpha2."""
    return _converted(body, ONLY_IN_V1ALPHA2, ONLY_IN_V1ALPHA1, _plainly_to_v1alpha2, _plainly_to_v1alpha1)


def to_v1alpha1(body: Mapping[str, Any]) -> Object:
    """Return a v1alpha2 object as v1alpha1."""
    return _converted(body, ONLY_IN_V1ALPHA1, ONLY_IN_V1ALPHA2, _plainly_to_v1alpha1, _plainly_to_v1alpha2)


def _converted(
    body: Mapping[str, Any],
    kept_here: str,
    keep_there: str,
    convert: Callable[[Object], Object],
    back: Callable[[Object], Object],
) -> Object:
    stripped, kept = _taken_out(body, kept_here)
    try:
        converted = round_trip.restore(convert(stripped), kept)
        lost = round_trip.difference(back(converted), stripped)
    except (AttributeError, KeyError, TypeError, ValueError):
        # Anybody can write the annotation. One that makes an object no group would fail every list that it is in.
        converted = convert(stripped)
        lost = round_trip.difference(back(converted), stripped)
    return _put_in(converted, keep_there, lost)


def _taken_out(body: Mapping[str, Any], key: str) -> tuple[Object, list[Object]]:
    """Return an object without an annotation, and what stood in it."""
    copied = _copied(body)
    annotations = copied["metadata"].get("annotations") or {}
    text = annotations.pop(key, None)
    if text is not None and not annotations:
        del copied["metadata"]["annotations"]
    try:
        return copied, round_trip.read(text or "[]")
    except ValueError:  # another client wrote there
        return copied, []


def _put_in(body: Object, key: str, differences: list[Object]) -> Object:
    if differences:
        annotations = body["metadata"].get("annotations") or {}
        text = json.dumps(differences, sort_keys=True, separators=(",", ":"))
        body["metadata"]["annotations"] = {**annotations, key: text}
    return body


def _plainly_to_v1alpha2(body: Mapping[str, Any]) -> Object:
    converted = _copied(body)
    converted["apiVersion"] = V1ALPHA2
    annotations = dict(converted["metadata"].get("annotations") or {})
    spec = converted.get("spec") or {}
    exclusive = annotations.get(labels.OLD_EXCLUSIVE_TOPOLOGY)
    if exclusive is not None:
        annotations.setdefault(labels.GROUP_EXCLUSIVE_TOPOLOGY, exclusive)
    policy = spec.pop("podGroupPolicy", None)
    if policy is not None:
        annotations |= {**_gang(policy), labels.KEPT_POD_GROUP_POLICY: _text(policy)}
    coordination = spec.pop("coordination", None)
    if coordination is not None:
        annotations[labels.KEPT_COORDINATION] = _text(coordination)
    _set_annotations(converted["metadata"], annotations)
    if "roles" in spec:
        spec["roles"] = [_role_to_v1alpha2(role) for role in spec["roles"]]
    return converted


def _plainly_to_v1alpha1(body: Mapping[str, Any]) -> Object:
    converted = _copied(body)
    converted["apiVersion"] = V1ALPHA1
    annotations = dict(converted["metadata"].get("annotations") or {})
    spec = converted.get("spec") or {}
    coordination = _kept(annotations, labels.KEPT_COORDINATION, list)
    if coordination is not None:
        spec["coordination"] = coordination
        del annotations[labels.KEPT_COORDINATION]
    policy = _kept(annotations, labels.KEPT_POD_GROUP_POLICY, dict)
    if policy is not None and _gang(policy).items() <= annotations.items():  # otherwise it was changed since
        spec["podGroupPolicy"] = policy
        for key in (labels.KEPT_POD_GROUP_POLICY, *_gang(policy)):
            del annotations[key]
    exclusive = annotations.get(labels.OLD_EXCLUSIVE_TOPOLOGY)
    if exclusive is not None and annotations.get(labels.GROUP_EXCLUSIVE_TOPOLOGY) == exclusive:
        del annotations[labels.GROUP_EXCLUSIVE_TOPOLOGY]
    _set_annotations(converted["metadata"], annotations)
    if "roles" in spec:
        spec["roles"] = [_role_to_v1alpha1(role) for role in spec["roles"]]
    return converted


def _gang(policy: Mapping[str, Any]) -> dict[str, str]:
    """Return the annotations that say the same as a podGroupPolicy."""
    kube, volcano = policy.get("kubeScheduling"), policy.get("volcanoScheduling")
    if kube is not None:
        timeout = kube.get("scheduleTimeoutSeconds")
        return {labels.GROUP_GANG: "true"} | ({} if timeout is None else {labels.GROUP_GANG_TIMEOUT: str(timeout)})
    if volcano is None:
        return {}
    wanted = {labels.GROUP_GANG_QUEUE: "queue", labels.GROUP_GANG_PRIORITY: "priorityClassName"}
    return {labels.GROUP_GANG: "true"} | {key: volcano[name] for key, name in wanted.items() if volcano.get(name)}


def _copied(body: Mapping[str, Any]) -> Object:
    """Return a copy, by way of JSON: several times faster than `copy.deepcopy`, which counts with large objects."""
    copied: Object = json.loads(json.dumps(body))
    return copied


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _kept(annotations: Mapping[str, str], key: str, type_: type) -> Any:
    """Return what an annotation keeps; None when it is not there, or not what a conversion writes."""
    value = read_json(annotations.get(key))
    return value if isinstance(value, type_) else None


def _set_annotations(holder: Object, annotations: Mapping[str, str]) -> None:
    if annotations:
        holder["annotations"] = dict(annotations)
    else:
        holder.pop("annotations", None)


def _role_to_v1alpha2(role: Mapping[str, Any]) -> Object:
    converted = dict(role)
    workload = {**_DEFAULT_WORKLOAD, **(converted.pop("workload", None) or {})}
    if workload != _ROLE_INSTANCE_SET:
        annotation = {labels.ROLE_WORKLOAD_TYPE: f"{workload['apiVersion']}/{workload['kind']}"}
        converted["annotations"] = {**(converted.get("annotations") or {}), **annotation}
    converted["podManagementPolicy"] = "Parallel"
    source: Object = {}
    template, reference = converted.pop("template", None), converted.pop("templateRef", None)
    patch = converted.pop("templatePatch", None)
    if template is not None:
        source["template"] = template
    elif reference is not None:
        source["templateRef"] = {**reference, **({} if patch is None else {"patch": patch})}
    restart = converted.pop("restartPolicy", None)
    policy = {} if restart is None else {"restartPolicyConfig": {"type": restart, **_DELAYS}}
    leader_worker, components = converted.pop("leaderWorkerSet", None), converted.pop("components", None)
    if leader_worker is not None:
        converted["leaderWorkerPattern"] = {**_renamed(leader_worker, _LEADER_WORKER), **source, **policy}
    elif components:
        converted["customComponentsPattern"] = {"components": components, **policy}
    elif source:
        converted["standalonePattern"] = source
    return converted


_LEADER_WORKER = {"patchLeaderTemplate": "leaderTemplatePatch", "patchWorkerTemplate": "workerTemplatePatch"}


def _role_to_v1alpha1(role: Mapping[str, Any]) -> Object:
    converted = dict(role)
    annotations = dict(converted.get("annotations") or {})
    named = _WORKLOAD.fullmatch(annotations.get(labels.ROLE_WORKLOAD_TYPE, ""))
    converted["workload"] = {"apiVersion": named[1], "kind": named[2]} if named else dict(_ROLE_INSTANCE_SET)
    if named:
        del annotations[labels.ROLE_WORKLOAD_TYPE]
        _set_annotations(converted, annotations)
    converted.pop("podManagementPolicy", None)
    if converted.get("scalingAdapter") is not None:
        converted["scalingAdapter"] = {
            key: value for key, value in converted["scalingAdapter"].items() if key != "labels"
        }
    standalone, leader_worker, components = (
        converted.pop(key, None) for key in ("standalonePattern", "leaderWorkerPattern", "customComponentsPattern")
    )
    if standalone is not None:
        return converted | _source(standalone)
    if leader_worker is not None:
        fields = {"size", "leaderTemplatePatch", "workerTemplatePatch"}
        back = {new: old for old, new in _LEADER_WORKER.items()}
        converted["leaderWorkerSet"] = _renamed(
            {key: value for key, value in leader_worker.items() if key in fields}, back
        )
        return converted | _source(leader_worker) | _restart_policy(leader_worker)
    if components is not None:
        fields = {"name", "size", "serviceName", "template"}
        converted["components"] = [
            {key: value for key, value in component.items() if key in fields}
            for component in components.get("components") or []
        ]
        return converted | _restart_policy(components)
    return converted


def _source(pattern: Mapping[str, Any]) -> Object:
    """Return where a pattern has its pod template from, as fields of a v1alpha1 role."""
    if pattern.get("template") is not None:
        return {"template": pattern["template"]}
    reference = pattern.get("templateRef")
    if reference is None:
        return {}
    patch = {"templatePatch": reference["patch"]} if "patch" in reference else {}
    return {"templateRef": {key: value for key, value in reference.items() if key != "patch"}, **patch}


def _restart_policy(pattern: Mapping[str, Any]) -> Object:
    policy = (pattern.get("restartPolicyConfig") or {}).get("type") or pattern.get("restartPolicy")
    return {} if policy is None else {"restartPolicy": policy}


def _renamed(fields: Mapping[str, Any], names: Mapping[str, str]) -> Object:
    return {names.get(key, key): value for key, value in fields.items()}

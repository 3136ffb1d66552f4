"""Decides what to do with one CRD: apply it, leave it, or reject the upgrade. Pure; `upgrade` carries it out.

A CRD is Patio's if it says so, by its category or its version, and nothing shows that it is upstream's. An upgrade
never goes back to an older version, whose schema may lack fields of stored objects, and never drops a version in which
objects may still be stored. The conversion of a CRD in the cluster is applied as it is there, since the operator keeps
its namespace and its CA.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api.crd import CATEGORY, CONVERSION_SERVICE, VERSION

GENERATED_BY_OTHERS = "controller-gen.kubebuilder.io/version"
"""Annotation of upstream's CRDs, which Patio's never have."""

Object = dict[str, Any]


@dataclass(frozen=True)
class Apply:
    """Apply this body by server-side apply."""

    name: str
    body: Object
    reason: str


@dataclass(frozen=True)
class Skip:
    """Leave the CRD as it is."""

    name: str
    reason: str


@dataclass(frozen=True)
class Reject:
    """Write no CRD at all."""

    name: str
    reason: str


Decision = Apply | Skip | Reject


def decide(current: Mapping[str, Any] | None, new: Object, namespace: str) -> Decision:
    """Decide about one CRD.

    Args:
        current: the CRD in the cluster; None if there is none.
        new: the CRD that this version gives.
        namespace: where the operator runs, and with it the Service that converts.

    """
    name = str(new["metadata"]["name"])
    body = _for_namespace(new, namespace)
    if current is None:
        return Apply(name, body, "it does not exist")
    metadata = current["metadata"]
    if (owner := _foreign(current)) is not None:
        return Skip(name, f"it is not Patio's ({owner})")
    if metadata.get("deletionTimestamp"):
        return Reject(name, "it is being deleted, with all its objects: upgrade again when it is gone")
    current_version, new_version = _version(metadata), str(new["metadata"]["annotations"][VERSION])
    if current_version is not None and (rejected := _backwards(current_version, new_version)) is not None:
        return Reject(name, rejected)
    if lost := _lost_versions(current, new):
        return Reject(
            name,
            f"objects may be stored as {', '.join(lost)}, which this version does not have. Write every object "
            "again in a newer version, and remove the old one from status.storedVersions of the CRD",
        )
    body["metadata"]["resourceVersion"] = metadata["resourceVersion"]
    body["spec"]["conversion"] = _conversion(current, body)
    return Apply(name, body, f"it has version {current_version or 'unknown'}, and this is {new_version}")


def _for_namespace(new: Object, namespace: str) -> Object:
    body = copy.deepcopy(new)
    service = ((body["spec"].get("conversion") or {}).get("webhook") or {}).get("clientConfig", {}).get("service")
    if service is not None:
        service["namespace"] = namespace
    return body


def _foreign(current: Mapping[str, Any]) -> str | None:
    """Say what shows that a CRD is not Patio's; None if it is."""
    spec, annotations = current["spec"], current["metadata"].get("annotations") or {}
    if GENERATED_BY_OTHERS in annotations:
        return f"it has the annotation {GENERATED_BY_OTHERS}"
    service = (((spec.get("conversion") or {}).get("webhook") or {}).get("clientConfig") or {}).get("service") or {}
    if service.get("name") not in (None, CONVERSION_SERVICE["name"]):
        return f"the Service {service.get('namespace')}/{service['name']} converts its objects"
    if VERSION not in annotations and CATEGORY not in (spec["names"].get("categories") or []):
        return f"it has neither the annotation {VERSION} nor the category {CATEGORY}"
    return None


def _version(metadata: Mapping[str, Any]) -> str | None:
    """Return which version of Patio a CRD is of; None for one from before CRDs said so."""
    found: str | None = (metadata.get("annotations") or {}).get(VERSION)
    return found


def _backwards(current_version: str, new_version: str) -> str | None:
    """Say why an upgrade from one version to another is none; None if it is one."""
    current, new = order(current_version), order(new_version)
    if current is None or new is None:
        return (
            f"its version {current_version!r} cannot be compared with {new_version!r}: correct its annotation {VERSION}"
        )
    if current > new:
        return (
            f"it has version {current_version}, which is newer than {new_version}. CRDs never go back, since stored "
            "objects may "
            "have fields that the older ones lack. To install the older operator with the newer CRDs, set "
            "crds.upgrade=false"
        )
    return None


def order(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]] | None:
    """Return what versions are compared by; None for a text that is no version. A prerelease comes before its release.

    Both forms of a prerelease are known: 1.2.0-rc.1 and 1.2.0rc1.
    """
    found = re.fullmatch(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:[-.]?([0-9A-Za-z.-]{1,100}))?(?:\+.*)?", version)
    if found is None:
        return None
    parts = re.findall(r"\d+|[A-Za-z]+", found[4] or "")
    suffix = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in parts)
    return tuple(int(number) for number in found.groups()[:3]), not parts, suffix


def _lost_versions(current: Mapping[str, Any], new: Object) -> list[str]:
    """Return the versions in which objects may be stored and which the new CRD does not have."""
    stored = set((current.get("status") or {}).get("storedVersions") or [])
    return sorted(stored - {version["name"] for version in new["spec"]["versions"]})


def _conversion(current: Mapping[str, Any], body: Object) -> Object:
    """Return the conversion in the cluster, or the new one if there is none yet."""
    existing: Object = copy.deepcopy(current["spec"].get("conversion") or {})
    if existing.get("strategy", "None") == "None":
        new: Object = body["spec"]["conversion"]
        return new
    return existing

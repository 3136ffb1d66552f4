"""A role's pod template: the user's, and what makes its pods members of the group.

Used by `objects`. Added are labels of both generations, variables before the user's own, the topology file,
and the label and annotation by which the pods ask admission for the role's profiles. Nothing of the user's
is dropped.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from patio_operator.api import labels
from patio_operator.api.identity import put_before
from patio_operator.api.rolebasedgroup import Role, RoleBasedGroup
from patio_operator.groups import naming
from patio_operator.groups.plans import GroupError
from patio_operator.groups.strategic_merge import MergeError, merge

CONFIG_VOLUME = "rbg-cluster-config"
CONFIG_PATH = "/etc/rbg"
CONFIG_FILE = "config.yaml"


def resolved(group: RoleBasedGroup, role: Role) -> dict[str, Any]:
    """Return the user's template: the role's own, or the shared one with the role's patch.

    Raises:
        GroupError: there is no such shared template, or the patch cannot be applied.

    """
    pattern = role.standalone_pattern
    if pattern is None:
        raise GroupError("Unsupported", f"role {role.name!r} has no standalonePattern")
    if pattern.template_ref is None:
        return copy.deepcopy(pattern.template or {})
    name = pattern.template_ref.name
    shared = next((one.template for one in group.spec.role_templates if one.name == name), None)
    where = f"role {role.name!r}: standalonePattern.templateRef"
    if shared is None:
        known = ", ".join(repr(one.name) for one in group.spec.role_templates) or "none"
        raise GroupError(
            "InvalidTemplateRef",
            f"{where}.name is {name!r}, but spec.roleTemplates has {known}: add it, or correct the name",
        )
    try:
        return merge(shared, pattern.template_ref.patch or {}, f"{where}.patch")
    except MergeError as error:
        raise GroupError("InvalidTemplateRef", f"{error}: correct the patch") from error


def pod_template(group: RoleBasedGroup, role: Role) -> dict[str, Any]:
    """Return the template for the role's StatefulSet."""
    template = resolved(group, role)
    metadata = template.get("metadata") or {}
    spec = template["spec"]
    pod_labels = {**(metadata.get("labels") or {}), **naming.pod_labels(group, role)}
    annotations = dict(metadata.get("annotations") or {})
    if role.engine_runtimes:
        pod_labels[labels.ENGINE_RUNTIMES] = "true"
        annotations[labels.ENGINE_RUNTIMES] = _runtimes(role)
    variables = naming.identity(group, role).variables()
    for container in [*(spec.get("containers") or []), *_native_sidecars(spec)]:
        put_before(container, variables)
    _mount_config(group, spec)
    return {
        "metadata": {"labels": pod_labels, **({"annotations": annotations} if annotations else {})},
        "spec": spec,
    }


def _runtimes(role: Role) -> str:
    """Return the role's engineRuntimes as admission reads them: the same text for the same entries."""
    entries = [
        {key: value for key, value in runtime.to_api().items() if value != []} for runtime in role.engine_runtimes
    ]
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))


def _native_sidecars(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in spec.get("initContainers") or [] if one.get("restartPolicy") == "Always"]


def _mount_config(group: RoleBasedGroup, spec: dict[str, Any]) -> None:
    """Mount the topology file where the user has neither that volume nor that path in use."""
    volumes = spec.get("volumes") or []
    if any(volume["name"] == CONFIG_VOLUME for volume in volumes):
        return
    source = {
        "name": naming.config_map(group),
        "items": [{"key": CONFIG_FILE, "path": CONFIG_FILE}],
    }
    mount = {"name": CONFIG_VOLUME, "mountPath": CONFIG_PATH, "readOnly": True}
    for container in spec.get("containers") or []:
        mounts = container.get("volumeMounts") or []
        if all(one.get("mountPath", "").rstrip("/") != CONFIG_PATH for one in mounts):
            container["volumeMounts"] = [*mounts, dict(mount)]
    spec["volumes"] = [*volumes, {"name": CONFIG_VOLUME, "configMap": source}]

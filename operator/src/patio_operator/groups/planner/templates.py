"""A role's pod templates: the user's, and what makes its pods members of the group.

Used by `objects` and `revisions`. Added are labels of both generations, variables before the user's own, the
topology file, and the label and annotation by which the pods ask admission for the role's profiles; to leaders, what
they were last rolled for. Nothing of the user's is dropped.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from patio_api import labels, rollout_annotations
from patio_api.pod_identity_env import put_before
from patio_api.rolebasedgroup import EngineRuntime, Role, RoleBasedGroup
from patio_operator.groups.planner import naming
from patio_operator.groups.planner.plan import GroupError
from patio_operator.groups.planner.strategic_merge import MergeError, merge

CONFIG_VOLUME = "rbg-cluster-config"
CONFIG_PATH = "/etc/rbg"
CONFIG_FILE = "config.yaml"

Template = dict[str, Any]


def resolved(group: RoleBasedGroup, role: Role) -> Template:
    """Return the user's template: the role's own, or the shared one with the role's patch.

    Raises:
        GroupError: there is no such shared template, or the patch cannot be applied.

    """
    pattern = role.standalone_pattern or role.leader_worker_pattern
    field = "standalonePattern" if role.standalone_pattern else "leaderWorkerPattern"
    if pattern is None:
        raise GroupError("Unsupported", f"role {role.name!r} has neither standalonePattern nor leaderWorkerPattern")
    if pattern.template_ref is None:
        return copy.deepcopy(pattern.template or {})
    name = pattern.template_ref.name
    shared = next(
        (role_template.template for role_template in group.spec.role_templates if role_template.name == name), None
    )
    where = f"role {role.name!r}: {field}.templateRef"
    if shared is None:
        names = ", ".join(repr(role_template.name) for role_template in group.spec.role_templates) or "none"
        raise GroupError(
            "InvalidTemplateRef",
            f"{where}.name is {name!r}, but spec.roleTemplates has {names}: add it, or correct the name",
        )
    return _patched(shared, pattern.template_ref.patch or {}, f"{where}.patch")


def _patched(template: Template, patch: dict[str, Any], where: str) -> Template:
    try:
        return merge(template, patch, where)
    except MergeError as error:
        raise GroupError("InvalidTemplateRef", f"{error}: correct the patch") from error


def pod_template(group: RoleBasedGroup, role: Role) -> Template:
    """Return the template of a standalone role's pods.

    Raises:
        GroupError: as `resolved`.

    """
    return _member(group, role, resolved(group, role), role.name, role.engine_runtimes)


def leader_template(group: RoleBasedGroup, role: Role) -> Template:
    """Return the template of the leaders of a leader-worker role; the only ones that get its profiles, as upstream.

    Raises:
        GroupError: as `resolved`.

    """
    assert role.leader_worker_pattern is not None
    patch = role.leader_worker_pattern.leader_template_patch or {}
    patched = _patched(resolved(group, role), patch, f"role {role.name!r}: leaderWorkerPattern.leaderTemplatePatch")
    template = _member(group, role, patched, naming.LEADER, role.engine_runtimes)
    template["spec"]["subdomain"] = naming.service(group, role)
    marks = rollout_annotations.of_role({"annotations": group.metadata.annotations}, role.name)
    if marks:
        annotations = template["metadata"].get("annotations") or {}
        template["metadata"]["annotations"] = {**annotations, **rollout_annotations.template_annotation(marks)}
    return template


def worker_template(group: RoleBasedGroup, role: Role) -> Template:
    """Return the template of the workers of a leader-worker role.

    Raises:
        GroupError: as `resolved`.

    """
    pattern = role.leader_worker_pattern
    assert pattern is not None
    patch = pattern.worker_template_patch or {}
    patched = _patched(resolved(group, role), patch, f"role {role.name!r}: leaderWorkerPattern.workerTemplatePatch")
    template = _member(group, role, patched, naming.WORKER, ())
    if naming.workers_are_reached(role, pattern):
        template["spec"]["subdomain"] = naming.service(group, role)
    return template


def _member(
    group: RoleBasedGroup, role: Role, template: Template, component: str, runtimes: Sequence[EngineRuntime]
) -> Template:
    """Add to a template of the user's what makes its pods members of the group, and has them ask for profiles."""
    metadata = template.get("metadata") or {}
    spec = template.get("spec") or {}
    if not spec.get("containers"):
        raise GroupError("InvalidSpec", f"role {role.name!r}: the pod template has no containers: add one")
    pod_labels = {**(metadata.get("labels") or {}), **naming.pod_labels(group, role, component)}
    annotations = dict(metadata.get("annotations") or {})
    if runtimes:
        pod_labels[labels.ENGINE_RUNTIMES] = "true"
        annotations[labels.ENGINE_RUNTIMES] = _text(runtimes)
    variables = naming.identity(group, role, component).variables()
    for container in [*spec["containers"], *_native_sidecars(spec)]:
        put_before(container, variables)
    _mount_config(group, spec)
    return {
        "metadata": {"labels": pod_labels, **({"annotations": annotations} if annotations else {})},
        "spec": spec,
    }


def _text(runtimes: Sequence[EngineRuntime]) -> str:
    """Return engineRuntimes as admission reads them: the same text for the same entries."""
    entries = [{key: value for key, value in runtime.to_api().items() if value != []} for runtime in runtimes]
    return json.dumps(entries, sort_keys=True, separators=(",", ":"))


def _native_sidecars(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for container in spec.get("initContainers") or [] if container.get("restartPolicy") == "Always"]


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
        if all(mount.get("mountPath", "").rstrip("/") != CONFIG_PATH for mount in mounts):
            container["volumeMounts"] = [*mounts, dict(mount)]
    spec["volumes"] = [*volumes, {"name": CONFIG_VOLUME, "configMap": source}]

"""The annotations that say for which revisions of its profiles a workload was last rolled.

A pod template has `labels.ROLLED`; a leader-worker role, whose templates are in the user's RoleBasedGroup, has its part
of `labels.ROLLED_ROLES` there. `profiles` writes them, `groups` puts the second into the leaders' templates, admission
reads the first. What cannot be read counts as not there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from patio_api import labels
from patio_api.bounded_json import read_json

RolledRevisions = Mapping[str, str]
"""Revision by profile."""


def of_template(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the marks of a pod template, or of a pod made from one."""
    return _revisions(_json(metadata, labels.ROLLED))


def of_role(metadata: Mapping[str, Any], role: str) -> dict[str, str]:
    """Return the marks of a leader-worker role, from its group's metadata."""
    roles = _json(metadata, labels.ROLLED_ROLES)
    return _revisions(roles.get(role) if isinstance(roles, dict) else None)


def template_annotation(marks: RolledRevisions) -> dict[str, str]:
    """Return the annotation of a pod template."""
    return {labels.ROLLED: _text(dict(marks))}


def group_annotation(metadata: Mapping[str, Any], role: str, marks: RolledRevisions) -> dict[str, str]:
    """Return the annotation of a group in which a role has these marks, and every other role those it had."""
    before = _json(metadata, labels.ROLLED_ROLES)
    return {labels.ROLLED_ROLES: _text({**(before if isinstance(before, dict) else {}), role: dict(marks)})}


def _json(metadata: Mapping[str, Any], key: str) -> Any:
    return read_json((metadata.get("annotations") or {}).get(key))


def _revisions(value: Any) -> dict[str, str]:
    return {str(name): str(revision) for name, revision in value.items()} if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))

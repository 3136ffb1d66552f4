"""An upgrade of Patio restarts no engine of a group: what it adds to pod templates stays as recorded.

A StatefulSet replaces its pods when its template changes, and a leader-worker instance is made anew for another
revision. Patio's own part of a template is in every group's: a change of it would restart the engines of all groups at
once, with no budget over them. Whoever wants to add something else has to add it to groups whose spec changes, and
leave the others as they are; then another recording is made for the new part, beside this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from patio_api.rolebasedgroup import RoleBasedGroup
from patio_operator.groups.planner import objects, revisions

RECORDED = Path(__file__).parents[2] / "recorded" / "group_templates.yaml"

WHY = f"an upgrade would restart the engines of every RoleBasedGroup at once (see the docstring); recorded: {RECORDED}"


def made_of(group: dict[str, Any]) -> dict[str, Any]:
    """Return what decides whether pods are replaced."""
    model = RoleBasedGroup.model_validate(group)
    made: dict[str, Any] = {}
    for role in model.spec.roles:
        if role.leader_worker_pattern is None:
            made[role.name] = objects.stateful_set(model, role)["spec"]
        else:
            revision = revisions.wanted(model, role)
            made[role.name] = {"hash": revision.hash, **revision.to_data()}
    return made


def test_pod_templates_of_groups_are_as_recorded() -> None:
    recorded = yaml.safe_load(RECORDED.read_text())
    for document in recorded:
        assert made_of(document["group"]) == document["made"], WHY

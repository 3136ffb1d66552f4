"""Which roles may be created now: a role waits until those it depends on are ready.

Used by `planner`. Only creation waits; a role that is there is updated and scaled whatever becomes of its
dependencies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from patio_api.rolebasedgroup import Role
from patio_operator.groups.planner.plan import GroupError


def check(roles: Sequence[Role]) -> None:
    """Raise when a dependency names no role, or roles wait for each other.

    Raises:
        GroupError: with reason `InvalidDependency`.

    """
    names = {role.name for role in roles}
    for role in roles:
        for dependency in role.dependencies:
            if dependency not in names:
                raise GroupError(
                    "InvalidDependency",
                    f"role {role.name!r} depends on {dependency!r}, which is not a role of the group: correct the name",
                )
    waiting = {role.name: set(role.dependencies) for role in roles}
    while free := {name for name, dependencies in waiting.items() if not dependencies}:
        waiting = {name: waiting[name] - free for name in waiting if name not in free}
    if waiting:
        cycle = _cycle(waiting)
        raise GroupError(
            "InvalidDependency", f"roles depend on each other: {' -> '.join(cycle)}: remove one of the dependencies"
        )


def _cycle(waiting: Mapping[str, Collection[str]]) -> list[str]:
    """Follow dependencies from any role that waits for ever until one comes again."""
    path = [min(waiting)]
    while (following := min(waiting[path[-1]])) not in path:
        path.append(following)
    return [*path[path.index(following) :], following]


def unmet(role: Role, ready: Collection[str]) -> tuple[str, ...]:
    """Return the dependencies that are not ready yet."""
    return tuple(name for name in dict.fromkeys(role.dependencies) if name not in ready)

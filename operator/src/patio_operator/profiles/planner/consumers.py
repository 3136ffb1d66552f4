"""The pods that have a profile, each with its revision and its workload. Comes first in a pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from patio_operator.pods.profile_use import ProfileUse, WorkloadRef


@dataclass(frozen=True)
class ProfilePod:
    """A pod that has the profile."""

    namespace: str
    name: str
    revision: str
    """Of the profile, when the pod was made."""
    workload: WorkloadRef | None
    """What recreates it when its template changes; None when nothing does that Patio rolls."""
    made_by: str
    """Kind of its controller; `Pod` for one without a controller."""
    rolled_for: str = ""
    """The revision of the profile that its template was last rolled for; empty when it never was."""


def pods_with(profile: str, uses: Iterable[ProfileUse | None]) -> list[ProfilePod]:
    """Return the pods that have a profile.

    Args:
        profile: its name.
        uses: what `use_of` said of pods.

    """
    return [
        ProfilePod(
            use.namespace, use.name, use.revisions[profile], use.workload, use.made_by, use.rolled_for.get(profile, "")
        )
        for use in uses
        if use is not None and profile in use.revisions
    ]

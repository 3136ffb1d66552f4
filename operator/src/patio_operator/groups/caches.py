"""What the cache keeps of a RoleBasedGroup and of what was made of it: enough to know that one changed. Pure.

A group itself is read from the API server when it is planned.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from patio_api import labels


@dataclass(frozen=True)
class CachedGroup:
    """A RoleBasedGroup: what changes with it, apart from its status."""

    name: str
    digest: str
    handed_over: bool
    """Whether it is to be left to upstream's controller."""


def decode_group(body: Mapping[str, Any]) -> CachedGroup:
    """Reduce a RoleBasedGroup, of which only metadata is here. Its generation is another one when its spec is."""
    metadata = body["metadata"]
    annotations = metadata.get("annotations") or {}
    compared = [metadata["uid"], metadata.get("generation"), metadata.get("deletionTimestamp"), annotations]
    digest = hashlib.sha256(json.dumps(compared, sort_keys=True).encode()).hexdigest()
    return CachedGroup(metadata["name"], digest, annotations.get(labels.HAND_OVER) == "true")


def decode_member(body: Mapping[str, Any]) -> tuple[str, str]:
    """Reduce what is labelled as a RoleBasedGroup's to the group's name and its own version: each change is one."""
    metadata = body["metadata"]
    return metadata["labels"][labels.GROUP_NAME], metadata["resourceVersion"]

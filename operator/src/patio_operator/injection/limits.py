"""How much of a pod's text injection reads: the pod is its owner's, and admission sees it before any validation.

Asked first by `admission`. What a pod has of each list is bounded here, so that everything after it may compare each
with each. A pod within these limits is far larger than any that starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from patio_operator.injection.types import containers_of

CONTAINERS = 256
VOLUMES = 512
OF_A_CONTAINER: Mapping[str, int] = {
    "env": 2048,
    "envFrom": 256,
    "volumeMounts": 256,
    "volumeDevices": 256,
    "ports": 256,
}
WORDS = 50_000
"""Of a container's command and arguments."""
WORDS_BYTES = 2 * 1024 * 1024
PATH = 1024
"""Characters of a path at which something is mounted."""
MANY_CONTAINERS = 32
MANY_ENTRIES = 512
"""Of all the lists above, in all containers."""
LONG_COMMANDS = 8 * 1024
"""Characters of all commands of a pod."""
NAME = 253
"""Characters of a profile's name."""
REVISION = 64
PROFILES = 32
"""That one pod asks for."""
WARNINGS = 20
"""Of one admission. The API server drops what is more than 4096 characters in all."""
MESSAGE = 1000
"""Characters of a warning or rejection. The API server passes on 256 of a warning."""


def excess(pod: Mapping[str, Any]) -> str | None:
    """Say what a pod has too much of; None when it is within the limits."""
    spec = pod["spec"]
    containers = containers_of(pod)
    counts = [("containers", len(containers), CONTAINERS), ("volumes", len(spec.get("volumes") or []), VOLUMES)]
    for what, count, most in counts:
        if count > most:
            return f"the pod has {count} {what}, and Patio reads at most {most}"
    for container in containers:
        name = str(container.get("name"))[:63]
        for key, most in OF_A_CONTAINER.items():
            count = len(container.get(key) or [])
            if count > most:
                return f"container {name!r} has {count} entries in {key}, and Patio reads at most {most}"
        words = [*(container.get("command") or []), *(container.get("args") or [])]
        if len(words) > WORDS or sum(map(len, words)) > WORDS_BYTES:
            return (
                f"container {name!r} has a command of {len(words)} words and {sum(map(len, words))} characters, and "
                f"Patio reads at most {WORDS} words and {WORDS_BYTES} characters"
            )
        if any(len(mount.get("mountPath") or "") > PATH for mount in container.get("volumeMounts") or []):
            return f"container {name!r} has a mountPath of more than {PATH} characters"
    return None


def is_large(pod: Mapping[str, Any]) -> bool:
    """Whether reading a pod may take longer than others should wait for it."""
    containers = containers_of(pod)
    words = (word for container in containers for key in ("command", "args") for word in container.get(key) or [])
    entries = sum(len(container.get(key) or []) for container in containers for key in OF_A_CONTAINER)
    return len(containers) > MANY_CONTAINERS or entries > MANY_ENTRIES or sum(map(len, words)) > LONG_COMMANDS


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters, the end of a longer one left out."""
    return text if len(text) <= most else text[: most - 1] + "…"


def few(warnings: list[str]) -> tuple[str, ...]:
    """Return warnings, each once, and of very many the first ones and how many more there are."""
    once = list(dict.fromkeys(shortened(warning, MESSAGE) for warning in warnings))
    if len(once) <= WARNINGS:
        return tuple(once)
    return (*once[: WARNINGS - 1], f"{len(once) - WARNINGS + 1} more warnings")

"""Says what is in a start's way: each subject is fine, a warning or a problem. Pure.

`preflight` gathers the facts and asks here. A warning may be wrong for this machine or engine; a problem ends the
start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

from inference_server.arguments import Review
from inference_server.errors import Cause, ServerStartupError

FINE, WARNING, PROBLEM = "ok", "warning", "problem"
GIB = 1024.0**3
LITTLE_DISK = 1 * GIB
LITTLE_SHARED_MEMORY = 1 * GIB
"""Containers have 64 MiB unless they are given more; NCCL needs more as soon as there are two GPUs."""


@dataclass(frozen=True)
class CheckItem:
    """What was found about one subject."""

    subject: str
    level: str
    """`ok`, `warning` or `problem`."""
    message: str
    hint: str = ""
    cause: Cause | None = None


@dataclass(frozen=True)
class CheckReport:
    """What would be started, and what is in its way."""

    name: str
    command: tuple[str, ...]
    """Masked."""
    environment: Mapping[str, str]
    """What the engine's variables have beyond the caller's, masked."""
    items: tuple[CheckItem, ...]

    @property
    def problems(self) -> tuple[CheckItem, ...]:
        """What would end the start."""
        return tuple(item for item in self.items if item.level == PROBLEM)

    @property
    def passed(self) -> bool:
        """Whether nothing would end the start, as far as this can be known before."""
        return not self.problems


def about_error(subject: str, error: ServerStartupError) -> CheckItem:
    """Return the problem that an error is."""
    return CheckItem(subject, PROBLEM, error.message, error.hint, error.cause)


def about_port(port: int, free: bool, holders: str) -> CheckItem:
    """Judge the port."""
    if free:
        return CheckItem("port", FINE, "%d is free" % port)
    hint = "it is held by %s" % holders if holders else "a connection or a process of another user holds it"
    return CheckItem("port", PROBLEM, "%d is in use" % port, hint, Cause.PORT_IN_USE)


def about_options(review: Review, certain: bool) -> Sequence[CheckItem]:
    """Judge the options. Of another version of the engine than the table's, an unknown one is only a warning."""
    if not review.findings:
        return (CheckItem("options", FINE, "all are known" if certain else "all are known to another version"),)
    return tuple(
        CheckItem(
            "options",
            PROBLEM if certain and finding.problem == "unknown" else WARNING,
            finding.message,
            finding.hint,
            Cause.UNKNOWN_OPTION if finding.problem == "unknown" else None,
        )
        for finding in review.findings
    )


def about_gpus(needed: int, visible: Sequence[str] | None, used_mib: Mapping[str, int]) -> CheckItem:
    """Judge the GPUs.

    Args:
        needed: how many the engine's arguments ask for.
        visible: those that variables choose; None if they say nothing.
        used_mib: the machine's GPUs with their memory in use; empty if there is none that can be seen.
    """
    names = list(used_mib) if visible is None else list(visible)
    if not used_mib:
        message = "no GPU can be seen on this machine, and %d would be used" % needed
        return CheckItem("GPUs", WARNING, message, "an engine that was built for CPUs does not need one")
    memory = ", ".join("%s: %d MiB in use" % (name, used_mib[name]) if name in used_mib else name for name in names)
    if len(names) < needed:
        return CheckItem(
            "GPUs",
            PROBLEM,
            "%d are needed and %d are visible (%s)" % (needed, len(names), memory or "none"),
            "lower the parallel sizes, or make more of them visible",
            Cause.TOO_FEW_GPUS,
        )
    return CheckItem("GPUs", FINE, "%d of %d visible (%s)" % (needed, len(names), memory))


def about_path(path: str, exists: bool, has_config: bool) -> CheckItem:
    """Judge a model that is a path."""
    if not exists:
        return CheckItem("model", PROBLEM, "there is no %s" % path, "check the path", Cause.MODEL_NOT_FOUND)
    if not has_config:
        return CheckItem("model", WARNING, "%s has no config.json" % path, "most formats need one")
    return CheckItem("model", FINE, "%s is there" % path)


def about_hub(model: str, cached: bool, offline: bool, cache: str) -> CheckItem:
    """Judge a model that is a name on the hub."""
    if cached:
        return CheckItem("model", FINE, "%s is in %s" % (model, cache))
    if offline:
        return CheckItem(
            "model",
            PROBLEM,
            "%s is not in %s, and HF_HUB_OFFLINE forbids to download it" % (model, cache),
            "download it first, or unset HF_HUB_OFFLINE",
            Cause.OFFLINE,
        )
    return CheckItem("model", FINE, "%s will be downloaded to %s" % (model, cache))


def about_disk(path: str, free_bytes: float) -> CheckItem:
    """Judge the space where something will be written."""
    message = "%.1f GiB free at %s" % (free_bytes / GIB, path)
    if free_bytes < LITTLE_DISK:
        return CheckItem("disk", WARNING, message, "weights and compiled graphs take gigabytes", Cause.DISK_FULL)
    return CheckItem("disk", FINE, message)


def about_shared_memory(size: float, gpus: int) -> tuple[CheckItem, ...]:
    """Judge /dev/shm, which several GPUs use."""
    if gpus < 2 or size >= LITTLE_SHARED_MEMORY:
        return ()
    return (
        CheckItem(
            "shared memory",
            WARNING,
            "/dev/shm has %.2f GiB" % (size / GIB),  # noqa: S108 - a text
            "for several GPUs: docker run --ipc=host or --shm-size, or an emptyDir with medium Memory",
            Cause.SHARED_MEMORY,
        ),
    )

"""What a release publishes, and under which names. Pure.

A name is `REGISTRY/operator`, `REGISTRY/sidecar` or `REGISTRY/charts/patio`; REGISTRY is `ghcr.io/patio`, or another
one for a rehearsal or a fork. `plan` says in which order it goes out.
"""

import re
from dataclasses import dataclass

from patio_release.errors import ReleaseError

REGISTRY = "ghcr.io/patio"
"""Where releases are: the registry of the place where the repository is, below the same owner."""
BASE = "release/base.txt"
"""The file that names the base of released images. `make base` adds the digest that its tag has then, so that the base
belongs to the commit: a release that is made again has the same one."""


@dataclass(frozen=True)
class Image:
    """An image: its name below the registry, its Dockerfile, and its package in the lock."""

    name: str
    dockerfile: str
    package: str


IMAGES = (
    Image("operator", "operator/Dockerfile", "patio-operator"),
    Image("sidecar", "sidecar/Dockerfile", "patio"),
)
PLATFORMS = ("linux/amd64", "linux/arm64")
CHART = "charts/patio"
"""The chart: its folder in the tree, and its name below the registry."""
WHEELS = ("patio-protocol",)
"""Packages that others import: the wire contract with its client. Sidecar and operator are programs: images only."""

_REFERENCE = re.compile(r"[a-z0-9][a-z0-9.-]*(?::\d{1,5})?(?:/[a-z0-9][a-z0-9._-]*)+", re.ASCII)


def registry(text: str) -> str:
    """Return the prefix of all published names.

    Raises:
        ReleaseError: it is no host with a path, such as `ghcr.io/patio`.

    """
    if len(text) > 200 or _REFERENCE.fullmatch(text) is None:
        raise ReleaseError(f"--registry {text[:80]!r}: give a host and a path in small letters, such as {REGISTRY}")
    return text


def repository(reference: str) -> str:
    """Return the name in a reference, without tag and digest."""
    name = reference.partition("@")[0]
    head, colon, tail = name.rpartition(":")
    return head if colon and "/" not in tail else name


def own_platform(machine: str) -> str:
    """Return the platform of a machine, as images name it.

    Raises:
        ReleaseError: no release was made on such a machine.

    """
    platforms = {"x86_64": "linux/amd64", "aarch64": "linux/arm64"}
    if machine not in platforms:
        raise ReleaseError(f"a release is made on {' or '.join(platforms)}, and this machine is {machine}")
    return platforms[machine]


def platform_words(platform: str) -> tuple[str, str]:
    """Return operating system and architecture of `linux/amd64`."""
    system, _, architecture = platform.partition("/")
    return system, architecture

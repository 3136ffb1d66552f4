"""Whether a release may go out, and in which order its parts do. Pure.

`publisher` collects a `Tree` and what the registry has, asks `refusals` and `clashes`, and carries out `steps`. The
order keeps a promise: **a tag is the last thing that appears.** Until then everything is in the registry by digest
alone, which no user finds; so a release that stops in the middle has published nothing, and doing it again gives the
same digests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from patio_release.version import Version


@dataclass(frozen=True)
class Tree:
    """What a release is made of, as Git and the files say."""

    version: Version
    disagreements: tuple[str, ...]
    """Places with another version than the source."""
    tags: tuple[str, ...]
    """Git tags of the commit."""
    is_clean: bool
    """Whether the files are those of the commit."""
    fragments: tuple[str, ...]
    """Changelog fragments that no release has taken yet."""
    has_section: bool
    """Whether CHANGELOG.md has a section of the version."""
    base: str
    """The base of the images."""


class Step(Enum):
    """One step of a release, in words for people."""

    BUILD_WHEELS = "build the wheels"
    JOIN_CRDS = "write the CRDs as one file"
    LIST_LOCK = "list what the lock has (CycloneDX)"
    BUILD_IMAGES = "build the images"
    PACK_CHART = "pack the chart with the digests of the images"
    PUSH = "push images and chart by digest, without a tag"
    COMPARE_TAGS = "compare with tags that are there already"
    LIST_IMAGES = "list what the images have (SPDX and CycloneDX)"
    SIGN = "sign images and chart, and attest the lists"
    SUM = "write digests, checksums and notes, and sign the checksums"
    TAG_IMAGES = "tag the images"
    TAG_CHART = "tag the chart: the release is out"


BEFORE_ANYTHING_IS_PUSHED = (
    Step.BUILD_WHEELS,
    Step.JOIN_CRDS,
    Step.LIST_LOCK,
    Step.BUILD_IMAGES,
    Step.PACK_CHART,
)
STEPS = (
    *BEFORE_ANYTHING_IS_PUSHED,
    # Some registries answer for a tag only where something was pushed, and deny access before.
    Step.PUSH,
    Step.COMPARE_TAGS,
    Step.LIST_IMAGES,
    Step.SIGN,
    Step.SUM,
    Step.TAG_IMAGES,
    Step.TAG_CHART,
)
"""A chart that can be found names images that can be found, with signatures and lists."""


def refusals(tree: Tree) -> list[str]:
    """Say what must be done before this tree may be released; nothing if it may."""
    tag, found = tree.version.tag, [f"make version VERSION={tree.version.text}: {each}" for each in tree.disagreements]
    if not tree.is_clean:
        found.append("commit or remove what differs from the commit: git status names it")
    others = [each for each in tree.tags if each.startswith("v") and each != tag]
    if tag not in tree.tags:
        found.append(f"tag the commit: git tag --sign {tag}")
    if others:
        found.append(f"the commit has the tag {', '.join(others)} too, and its version is {tree.version.text}")
    if tree.fragments and not tree.version.is_candidate:
        found.append(f"make version takes the fragments into CHANGELOG.md: {', '.join(tree.fragments)} are left")
    if not tree.has_section and not tree.version.is_candidate:
        found.append(f"CHANGELOG.md has no section {tree.version.text}")
    if "@sha256:" not in tree.base:
        found.append(
            f"make base: {tree.base} names no digest, and a release that is made again would have another base"
        )
    return found


def clashes(built: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """Say which tags of this version are taken by something else. A tag never changes what it names.

    Args:
        built: references with the tag, and the digests that this release gives them.
        present: the same references, as far as the registry has them.

    """
    return [
        f"{reference} is {present[reference]} already, and this build gives {digest}: choose another version"
        for reference, digest in built.items()
        if present.get(reference, digest) != digest
    ]


def missing_tags(built: Mapping[str, str], present: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    """Return the tags that are still to be set, each with its digest."""
    return [(reference, digest) for reference, digest in built.items() if reference not in present]

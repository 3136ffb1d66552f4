"""Whether a release may go out, and in which order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from patio_release.plan import BEFORE_ANYTHING_IS_PUSHED, STEPS, Step, Tree, clashes, missing_tags, refusals
from patio_release.publisher import _DO
from patio_release.version import Version

READY = Tree(
    version=Version("1.2.0"),
    disagreements=(),
    tags=("v1.2.0",),
    is_clean=True,
    fragments=(),
    has_section=True,
    base="docker.io/library/python:3.11@sha256:abc",
)


def test_tagged_clean_commit_may_be_released() -> None:
    assert refusals(READY) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"disagreements": ("charts/patio/Chart.yaml has 1.1.0",)},
            "make version VERSION=1.2.0: charts/patio/Chart.yaml",
        ),
        ({"is_clean": False}, "git status"),
        ({"tags": ()}, "git tag --sign v1.2.0"),
        ({"tags": ("v1.2.0", "v1.1.9")}, "v1.1.9 too"),
        ({"fragments": ("+one.added.md",)}, r"+one.added.md are left"),
        ({"has_section": False}, "no section 1.2.0"),
        ({"base": "docker.io/library/python:3.11"}, "make base"),
    ],
)
def test_anything_that_is_missing_stops_the_release(changed: dict[str, Any], words: str) -> None:
    (refused,) = refusals(replace(READY, **changed))
    assert words in refused


def test_everything_that_is_missing_is_said_at_once() -> None:
    assert len(refusals(replace(READY, is_clean=False, tags=(), fragments=("a",), has_section=False))) == 4


def test_tag_of_something_else_does_not_matter() -> None:
    assert refusals(replace(READY, tags=("v1.2.0", "nightly"))) == []


def test_candidate_keeps_its_fragments_for_the_release() -> None:
    candidate = replace(
        READY, version=Version("1.2.0-rc.1"), tags=("v1.2.0-rc.1",), fragments=("a",), has_section=False
    )
    assert refusals(candidate) == []


def test_every_step_has_its_place_and_its_doer() -> None:
    assert set(STEPS) == set(Step) == set(_DO)
    assert len(STEPS) == len(set(STEPS))


def test_tags_come_last_and_the_charts_after_its_images() -> None:
    assert STEPS[-2:] == (Step.TAG_IMAGES, Step.TAG_CHART)


def test_everything_is_made_before_anything_is_pushed() -> None:
    assert STEPS[: len(BEFORE_ANYTHING_IS_PUSHED)] == BEFORE_ANYTHING_IS_PUSHED
    assert STEPS[len(BEFORE_ANYTHING_IS_PUSHED)] is Step.PUSH


def test_nothing_is_signed_before_tags_are_compared() -> None:
    assert STEPS.index(Step.COMPARE_TAGS) < STEPS.index(Step.SIGN) < STEPS.index(Step.TAG_IMAGES)


def test_chart_is_packed_when_digests_of_images_are_known() -> None:
    assert STEPS.index(Step.BUILD_IMAGES) < STEPS.index(Step.PACK_CHART)


def test_attested_lists_are_written_before() -> None:
    assert STEPS.index(Step.LIST_IMAGES) < STEPS.index(Step.SIGN) < STEPS.index(Step.SUM)


def test_tag_that_names_something_else_is_a_clash() -> None:
    built = {"r/operator:1.2.0": "sha256:a", "r/sidecar:1.2.0": "sha256:b"}
    (clash,) = clashes(built, {"r/operator:1.2.0": "sha256:a", "r/sidecar:1.2.0": "sha256:c"})
    assert clash.startswith("r/sidecar:1.2.0 is sha256:c already")


def test_release_that_is_done_again_sets_only_missing_tags() -> None:
    built = {"r/operator:1.2.0": "sha256:a", "r/sidecar:1.2.0": "sha256:b"}
    assert clashes(built, {"r/operator:1.2.0": "sha256:a"}) == []
    assert missing_tags(built, {"r/operator:1.2.0": "sha256:a"}) == [("r/sidecar:1.2.0", "sha256:b")]

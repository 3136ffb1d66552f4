"""What buildah is asked for, and what is read of what it made."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from e2e_cluster.progress import silent
from patio_release.errors import ReleaseError
from patio_release.images import Builder, Origin, metadata, read_layout
from patio_release.published import IMAGES, PLATFORMS
from patio_release.version import Version

ORIGIN = Origin(
    version=Version("1.0.0"),
    commit="c" * 40,
    created=1_700_000_000,
    base="docker.io/library/python:3.11-slim",
    base_digest="sha256:index",
    builder_digest="sha256:own",
    source="https://example.com",
)


def words(platform: str) -> list[str]:
    builder = Builder(Path("/tree"), Path("/store"), {}, False, Path("/log"), silent)
    return list(builder._build_words(IMAGES[0], ORIGIN, platform, "localhost/operator:x"))


def test_base_is_named_by_digest_for_both_stages() -> None:
    assert "BASE=docker.io/library/python@sha256:index" in words("linux/arm64")
    assert "BUILDER=docker.io/library/python@sha256:own" in words("linux/arm64")


def test_times_are_those_of_the_commit_and_no_layer_is_reused() -> None:
    command = words("linux/amd64")
    assert command[command.index("--timestamp") + 1] == "1700000000"
    assert {"--no-cache", "--pull", "--identity-label=false", "--tls-verify=true"} <= set(command)


def test_image_made_again_on_the_digest_of_its_base_is_the_same() -> None:
    again = replace(ORIGIN, base=f"{ORIGIN.base}@{ORIGIN.base_digest}")
    assert metadata(IMAGES[0], again) == metadata(IMAGES[0], ORIGIN)


def test_image_says_what_it_is_made_of() -> None:
    labels, annotations = metadata(IMAGES[0], ORIGIN)
    assert labels["org.opencontainers.image.revision"] == "c" * 40
    assert annotations["org.opencontainers.image.base.digest"] == "sha256:index"
    assert annotations["org.opencontainers.image.version"] == "1.0.0"


def layout(folder: Path, platforms: list[str]) -> Path:
    manifests = [
        {
            "digest": f"sha256:{platform}",
            "platform": dict(zip(("os", "architecture"), platform.split("/"), strict=True)),
        }
        for platform in platforms
    ]
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "blobs/sha256/abc").write_text(json.dumps({"manifests": manifests}))
    (folder / "index.json").write_text(json.dumps({"manifests": [{"digest": "sha256:abc"}]}))
    return folder


def test_layout_gives_the_digest_of_each_platform(tmp_path: Path) -> None:
    digest, platforms = read_layout(layout(tmp_path, list(reversed(PLATFORMS))))
    assert digest == "sha256:abc"
    assert platforms == {platform: f"sha256:{platform}" for platform in PLATFORMS}


@pytest.mark.parametrize("found", [[], ["linux/amd64"], ["linux/amd64", "linux/amd64"]])
def test_index_without_all_platforms_is_no_release(tmp_path: Path, found: list[str]) -> None:
    with pytest.raises(ReleaseError, match="has the platforms"):
        read_layout(layout(tmp_path, found))

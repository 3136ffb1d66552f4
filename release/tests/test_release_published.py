"""Names of what is published."""

from __future__ import annotations

from pathlib import Path

import pytest

from patio_release.errors import ReleaseError
from patio_release.published import IMAGES, own_platform, registry, repository
from patio_release.publisher import read_base

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["ghcr.io/patio", "127.0.0.1:5000/patio", "r.example/a/b"])
def test_host_with_a_path_is_a_registry(text: str) -> None:
    assert registry(text) == text


@pytest.mark.parametrize(
    "text", ["patio", "ghcr.io/Patio", "https://ghcr.io/patio", "ghcr.io/patio/", "", "a/" + "b" * 200]
)
def test_other_texts_are_no_registry(text: str) -> None:
    with pytest.raises(ReleaseError, match="--registry"):
        registry(text)


@pytest.mark.parametrize("ending", ["", ":1", "@sha256:abc", ":1@sha256:abc"])
def test_name_is_without_tag_and_digest(ending: str) -> None:
    assert repository(f"127.0.0.1:5000/patio/base{ending}") == "127.0.0.1:5000/patio/base"
    assert repository(f"docker.io/library/python{ending}") == "docker.io/library/python"


def test_machine_of_another_kind_makes_no_release() -> None:
    assert (own_platform("x86_64"), own_platform("aarch64")) == ("linux/amd64", "linux/arm64")
    with pytest.raises(ReleaseError, match="riscv64"):
        own_platform("riscv64")


def test_base_of_a_release_is_the_default_of_the_dockerfiles() -> None:
    name = read_base(ROOT).partition("@")[0]
    assert all(f"ARG BASE={name}\n" in (ROOT / image.dockerfile).read_text() for image in IMAGES)

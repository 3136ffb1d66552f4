"""The released chart: images by digest, and the same archive each time."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
import yaml

from patio_release.chart import METADATA, VALUES, packed, released, with_images, with_names
from patio_release.errors import ReleaseError
from patio_release.published import CHART, IMAGES, REGISTRY

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = {image.name: f"sha256:{number:064x}" for number, image in enumerate(IMAGES, 10)}


def chart_files() -> dict[str, bytes]:
    folder = ROOT / CHART
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_published_chart_has_the_values_of_the_tree() -> None:
    files = chart_files()
    after = released(files, REGISTRY, DIGESTS, [])
    assert {name for name in files if files[name] != after[name]} == {METADATA}


def test_another_registry_changes_the_names_of_images_alone() -> None:
    text = (ROOT / CHART / VALUES).read_text()
    after = with_names(text, "r.example:5000/team")
    assert [line for line in after.splitlines() if line not in text.splitlines()] == [
        f"    repository: r.example:5000/team/{image.name}" for image in IMAGES
    ]


def test_metadata_has_the_digests_that_templates_ask_for() -> None:
    annotations = yaml.safe_load(released(chart_files(), REGISTRY, DIGESTS, [])[METADATA])["annotations"]
    template = (ROOT / CHART / "templates/_helpers.tpl").read_text()
    assert 'printf "patio.dev/%s-digest" (index . 2)' in template
    assert {name: annotations[f"patio.dev/{name}-digest"] for name in DIGESTS} == DIGESTS


def test_tree_and_release_have_the_same_names_of_images() -> None:
    """So that a released chart and one of the tree differ in nothing but digests."""
    values = yaml.safe_load((ROOT / CHART / VALUES).read_text())
    assert {values[image.name]["image"]["repository"] for image in IMAGES} == {
        f"{REGISTRY}/{image.name}" for image in IMAGES
    }


def test_registry_is_that_of_the_repositorys_owner() -> None:
    home = yaml.safe_load((ROOT / CHART / METADATA).read_text())["home"]
    assert home.startswith(f"https://github.com/{REGISTRY.partition('/')[2]}/")


@pytest.mark.parametrize("name", [image.name for image in IMAGES])
def test_values_of_another_form_are_an_error(name: str) -> None:
    text = (ROOT / CHART / VALUES).read_text().replace(f"/{name}\n", f"/{name}-new\n")
    with pytest.raises(ReleaseError, match=f"{name}.image.repository"):
        with_names(text, REGISTRY)


def test_artifact_hub_gets_digests_and_changes() -> None:
    changes = [{"kind": "added", "description": "a: thing"}]
    files = released(chart_files(), REGISTRY, DIGESTS, changes)
    annotations = yaml.safe_load(files[METADATA])["annotations"]
    assert yaml.safe_load(annotations["artifacthub.io/changes"]) == changes
    assert yaml.safe_load(annotations["artifacthub.io/images"]) == [
        {"name": image.name, "image": f"{REGISTRY}/{image.name}@{DIGESTS[image.name]}"} for image in IMAGES
    ]


def test_metadata_that_lists_no_image_is_an_error() -> None:
    with pytest.raises(ReleaseError, match="operator"):
        with_images("name: patio\n", REGISTRY, DIGESTS)


def test_archive_is_the_same_in_whatever_order_files_come() -> None:
    files = chart_files()
    reverse = dict(reversed(list(files.items())))
    first, second = packed(files, "patio", 1_700_000_000), packed(reverse, "patio", 1_700_000_000)
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_archive_begins_with_the_metadata_and_has_all_files() -> None:
    files = chart_files()
    with tarfile.open(fileobj=io.BytesIO(packed(files, "patio", 1_700_000_000))) as tar:
        names, members = tar.getnames(), tar.getmembers()
    assert names[0] == "patio/Chart.yaml"
    assert {name.removeprefix("patio/") for name in names} == files.keys()
    assert {(member.mtime, member.mode, member.uid) for member in members} == {(1_700_000_000, 0o644, 0)}

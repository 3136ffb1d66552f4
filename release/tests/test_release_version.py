"""The version: its form, the places that repeat it, and that this tree's places agree."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from patio_release.errors import ReleaseError
from patio_release.version import (
    PLACES,
    Place,
    Version,
    disagreements,
    found_in,
    parse,
    read_all,
    read_source,
    renewed,
    set_version,
    with_candidate_mark,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", ["0.1.0", "1.20.300", "2.0.0-rc.1"])
def test_release_and_candidate_are_versions(text: str) -> None:
    assert parse(text).text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.0",
        "v1.0.0",
        "01.0.0",
        "1.0.0-beta",
        "1.0.0-rc.0",
        "1.0.0+x",
        "1.0.0\n",
        "1\N{ARABIC-INDIC DIGIT TWO}.0.0",
        "1" * 70,
    ],
)
def test_other_texts_are_no_versions(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"X\.Y\.Z"):
        parse(text)


def test_candidate_has_the_form_that_python_wants() -> None:
    assert (Version("2.0.0-rc.1").python, Version("2.0.0-rc.1").tag) == ("2.0.0rc1", "v2.0.0-rc.1")
    assert Version("2.0.0-rc.1").is_candidate
    assert not Version("2.0.0").is_candidate


def test_all_places_of_this_tree_have_one_version() -> None:
    assert disagreements(read_all(ROOT), read_source(ROOT)) == []


def test_chart_packages_openapi_and_tag_agree() -> None:
    """The same again, without the table of places: each file is read by its own format."""
    chart = yaml.safe_load((ROOT / "charts/patio/Chart.yaml").read_text())
    manifests = [path for path in ROOT.rglob("pyproject.toml") if ".venv" not in path.parts]
    versions = {str(path): tomllib.loads(path.read_text())["project"]["version"] for path in manifests}
    assert len(versions) > 8
    versions |= {"version": chart["version"], "appVersion": chart["appVersion"]}
    versions["openapi"] = json.loads((ROOT / "docs/openapi.json").read_text())["info"]["version"]
    assert set(versions.values()) == {read_source(ROOT).text}, versions
    tags = subprocess.run(["git", "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {tag for tag in tags.stdout.split() if re.match(r"v\d", tag)} <= {read_source(ROOT).tag}


def test_every_member_of_the_workspace_is_in_a_place() -> None:
    members = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]["members"]
    found = {occurrence.file for occurrence in read_all(ROOT)}
    assert {f"{member}/pyproject.toml" for member in members} <= found


def test_dependency_with_a_version_is_no_place() -> None:
    text = '[project]\nname = "a"\nversion = "1.0.0"\n\n[tool.x]\nversion = "9.9.9"\n'
    place = next(place for place in PLACES if place.files == "pyproject.toml")
    assert [occurrence.text for occurrence in found_in("pyproject.toml", text, place)] == ["1.0.0"]
    assert renewed(text, place, Version("1.1.0")) == text.replace("1.0.0", "1.1.0")


def test_file_that_was_forgotten_is_named() -> None:
    place = Place("a", "version: ", "$")
    found = found_in("a", "version: 1.0.0\n", place) + found_in("b", "version: 1.1.0\n", place)
    assert disagreements(found, Version("1.1.0")) == ["a has 1.0.0"]


def test_lock_has_the_version_as_python_writes_it() -> None:
    text = '[[package]]\nname = "patio"\nversion = "1.0.0"\nsource = { editable = "sidecar" }\n'
    place = next(place for place in PLACES if place.files == "uv.lock")
    assert 'version = "1.1.0rc2"' in renewed(text, place, Version("1.1.0-rc.2"))
    other = text.replace("editable", "registry")
    assert renewed(other, place, Version("1.1.0")) == other, "a package of another project"


def test_only_a_candidate_is_marked_as_one() -> None:
    text = 'annotations:\n  artifacthub.io/prerelease: "false"\n'
    marked = with_candidate_mark(text, Version("1.0.0-rc.1"))
    assert 'prerelease: "true"' in marked
    assert with_candidate_mark(marked, Version("1.0.0")) == text


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Copy the files of this tree that repeat the version."""
    for file in {occurrence.file for occurrence in read_all(ROOT)}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    return tmp_path


def test_setting_a_version_leaves_only_generated_files_behind(copy: Path) -> None:
    version = Version("7.8.9-rc.1")
    changed = set_version(copy, version)
    generated = {occurrence.file for occurrence in read_all(copy) if occurrence.place.is_generated}
    assert read_source(copy) == version
    assert {line.split()[0] for line in disagreements(read_all(copy), version)} == generated
    assert "README.md" in changed
    assert set_version(copy, version) == []


def test_setting_a_version_changes_nothing_else(copy: Path) -> None:
    before = {occurrence.file: (copy / occurrence.file).read_text() for occurrence in read_all(copy)}
    old = read_source(copy)
    set_version(copy, Version("7.8.9-rc.1"))
    set_version(copy, old)
    assert {file: (copy / file).read_text() for file in before} == before


def test_place_that_no_file_has_is_an_error(copy: Path) -> None:
    readme = copy / "README.md"
    readme.write_text(readme.read_text().replace("charts/patio --version", "charts/patio"))
    with pytest.raises(ReleaseError, match=r"README\.md"):
        read_all(copy)

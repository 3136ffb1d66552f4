"""What Chart.yaml says of the chart to those who look for it: the CRDs, examples and images are the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.api.profile import ClusterEngineRuntimeProfile
from patio_operator.api.rolebasedgroup import RoleBasedGroup

from .chart_objects import CHART, Render, images

METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text())
MODELS = {model.kind: model for model in (LoraAdapter, ClusterEngineRuntimeProfile, RoleBasedGroup)}


def annotation(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(METADATA["annotations"][f"artifacthub.io/{name}"])
    return found


def test_listed_crds_are_those_of_the_chart() -> None:
    crds = [yaml.safe_load(path.read_text()) for path in (CHART / "crds").glob("*.yaml")]
    stored = {
        (one["metadata"]["name"], one["spec"]["names"]["kind"], version["name"])
        for one in crds
        for version in one["spec"]["versions"]
        if version["storage"]
    }
    listed = annotation("crds")
    assert {(one["name"], one["kind"], one["version"]) for one in listed} == stored
    assert all(one["displayName"] and one["description"] for one in listed)


def test_each_crd_has_an_example_that_its_schema_accepts() -> None:
    examples = annotation("crdsExamples")
    assert [one["kind"] for one in examples] == [one["kind"] for one in annotation("crds")]
    for one in examples:
        model = MODELS[one["kind"]]
        assert one["apiVersion"] == f"{model.group}/{model.version}"
        model.model_validate(one)


@pytest.mark.api  # helm is one of the cluster's binaries
def test_listed_images_are_those_of_the_chart(render: Render) -> None:
    assert {one["image"] for one in annotation("images")} == images(render())


def test_prerelease_is_marked_as_one() -> None:
    assert METADATA["annotations"]["artifacthub.io/prerelease"] == str("-" in METADATA["version"]).lower()


def test_chart_has_the_version_of_the_operator() -> None:
    from patio_operator import __version__

    assert METADATA["version"] == METADATA["appVersion"] == __version__


def test_job_upgrades_the_crds_of_the_chart() -> None:
    names = {path.stem for path in (CHART / "crds").glob("*.yaml")}
    template = (CHART / "templates" / "crd-upgrade.yaml").read_text()
    assert {f"{one['name'].partition('.')[2]}_{one['name'].partition('.')[0]}" for one in annotation("crds")} == names
    for one in annotation("crds"):
        assert template.count(one["name"]) == 2, "what is looked up, and what the Job may change"

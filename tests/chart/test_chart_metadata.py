"""What Chart.yaml says of the chart to those who look for it: the CRDs, examples and images are the real ones."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from patio_api.loraadapter import LoraAdapter
from patio_api.profile import ClusterEngineRuntimeProfile
from patio_api.rolebasedgroup import RoleBasedGroup

from .chart_objects import CHART, Render, images

METADATA = yaml.safe_load((CHART / "Chart.yaml").read_text())
MODELS = {model.kind: model for model in (LoraAdapter, ClusterEngineRuntimeProfile, RoleBasedGroup)}


def annotation(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(METADATA["annotations"][f"artifacthub.io/{name}"])
    return found


def test_listed_crds_are_those_of_the_chart() -> None:
    crds = [yaml.safe_load(path.read_text()) for path in (CHART / "crds").glob("*.yaml")]
    stored = {
        (crd["metadata"]["name"], crd["spec"]["names"]["kind"], version["name"])
        for crd in crds
        for version in crd["spec"]["versions"]
        if version["storage"]
    }
    listed = annotation("crds")
    assert {(crd["name"], crd["kind"], crd["version"]) for crd in listed} == stored
    assert all(crd["displayName"] and crd["description"] for crd in listed)


def test_each_crd_has_an_example_that_its_schema_accepts() -> None:
    examples = annotation("crdsExamples")
    assert [example["kind"] for example in examples] == [crd["kind"] for crd in annotation("crds")]
    for example in examples:
        model = MODELS[example["kind"]]
        assert example["apiVersion"] == f"{model.group}/{model.version}"
        model.model_validate(example)


@pytest.mark.api  # helm is one of the cluster's binaries
def test_listed_images_are_those_of_the_chart(render: Render) -> None:
    assert {entry["image"] for entry in annotation("images")} == images(render())


def test_prerelease_is_marked_as_one() -> None:
    assert METADATA["annotations"]["artifacthub.io/prerelease"] == str("-" in METADATA["version"]).lower()


def test_chart_has_the_version_of_the_operator() -> None:
    from patio_operator import __version__

    assert METADATA["version"] == METADATA["appVersion"] == __version__


def test_job_upgrades_the_crds_of_the_chart() -> None:
    names = {path.stem for path in (CHART / "crds").glob("*.yaml")}
    template = (CHART / "templates" / "crd-upgrade.yaml").read_text()
    assert {f"{crd['name'].partition('.')[2]}_{crd['name'].partition('.')[0]}" for crd in annotation("crds")} == names
    for crd in annotation("crds"):
        assert template.count(crd["name"]) == 2, "what is looked up, and what the Job may change"

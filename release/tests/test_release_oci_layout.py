"""The chart as an artifact of a registry."""

from __future__ import annotations

import json
from pathlib import Path

from patio_release.oci_layout import HELM_CHART, HELM_CONFIG, digest, helm_artifact, moment, write

METADATA = {"name": "patio", "version": "1.0.0", "home": "https://example.com", "description": "what it is"}


def test_manifest_names_metadata_and_archive_as_helm_reads_them() -> None:
    artifact = helm_artifact(METADATA, b"archive", 1_700_000_000)
    manifest = json.loads(artifact.blobs[artifact.digest])
    (layer,) = manifest["layers"]
    assert (manifest["config"]["mediaType"], layer["mediaType"]) == (HELM_CONFIG, HELM_CHART)
    assert json.loads(artifact.blobs[manifest["config"]["digest"]]) == METADATA
    assert artifact.blobs[layer["digest"]] == b"archive"
    assert layer["size"] == 7


def test_time_is_that_of_the_commit() -> None:
    artifact = helm_artifact(METADATA, b"archive", 1_700_000_000)
    annotations = json.loads(artifact.blobs[artifact.digest])["annotations"]
    assert annotations["org.opencontainers.image.created"] == moment(1_700_000_000) == "2023-11-14T22:13:20Z"
    assert "org.opencontainers.image.source" not in annotations, "an annotation without text is left out"


def test_same_chart_has_the_same_digest_and_another_one_another() -> None:
    digest = helm_artifact(METADATA, b"archive", 1).digest
    assert helm_artifact(dict(reversed(METADATA.items())), b"archive", 1).digest == digest
    assert helm_artifact(METADATA, b"other", 1).digest != digest


def test_layout_on_disk_has_every_blob_under_its_digest(tmp_path: Path) -> None:
    artifact = helm_artifact(METADATA, b"archive", 1)
    write(artifact, tmp_path / "layout")
    (entry,) = json.loads((tmp_path / "layout/index.json").read_text())["manifests"]
    assert entry["digest"] == artifact.digest
    blobs = list((tmp_path / "layout/blobs/sha256").iterdir())
    assert len(blobs) == 3
    assert all(digest(path.read_bytes()) == f"sha256:{path.name}" for path in blobs)

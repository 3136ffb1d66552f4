"""An OCI artifact with one layer as a folder that `crane push` reads. Pure but for the writing of files.

`helm push` writes the time of the push into the manifest, so the same chart pushed twice has two digests. This module
writes the manifest that Helm reads, with the time of the commit. Layout: image-spec 1.1, image-layout.md.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
HELM_CONFIG = "application/vnd.cncf.helm.config.v1+json"
HELM_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


@dataclass(frozen=True)
class Artifact:
    """What goes into a layout: blobs by digest, and the digest of the manifest among them."""

    blobs: Mapping[str, bytes]
    digest: str


def helm_artifact(metadata: Mapping[str, Any], archive: bytes, created: int) -> Artifact:
    """Return the chart as Helm reads it from a registry.

    Args:
        metadata: the content of Chart.yaml.
        archive: the packed chart.
        created: seconds since 1970, for the annotation.

    """
    config = json.dumps(metadata, sort_keys=True, separators=(",", ":")).encode()
    annotations = {
        "org.opencontainers.image.created": moment(created),
        "org.opencontainers.image.description": str(metadata.get("description", "")),
        "org.opencontainers.image.title": str(metadata["name"]),
        "org.opencontainers.image.url": str(metadata.get("home", "")),
        "org.opencontainers.image.version": str(metadata["version"]),
        "org.opencontainers.image.source": str(next(iter(metadata.get("sources", ())), "")),
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(HELM_CONFIG, config),
            "layers": [_descriptor(HELM_CHART, archive)],
            "annotations": {name: text for name, text in annotations.items() if text},
        },
        sort_keys=True,
        separators=(",", ":"),
    ).encode()
    return Artifact({digest(each): each for each in (config, archive, manifest)}, digest(manifest))


def write(artifact: Artifact, folder: Path) -> None:
    """Write the layout into a folder that is not there yet."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for name, content in artifact.blobs.items():
        (blobs / name.removeprefix("sha256:")).write_bytes(content)
    (folder / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    index = {"schemaVersion": 2, "manifests": [_descriptor(MANIFEST, artifact.blobs[artifact.digest])]}
    (folder / "index.json").write_text(json.dumps(index))


def digest(content: bytes) -> str:
    """Return the digest of a blob."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def moment(seconds: int) -> str:
    """Return a time as RFC 3339 in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

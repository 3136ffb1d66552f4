"""Building the images of a release with buildah: one for each platform, and an index over them, as an OCI layout.

Each release builds in a store of its own, so that no layer of an earlier build gets in. The builder stage runs on this
machine's platform and takes the wheels of the other one; the final stage runs nothing. All times in an image are that
of the commit. `publisher` pushes the layout; nothing of this module talks to a registry but for the base.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.images import certificate_options
from e2e_cluster.longrun import run_logged
from e2e_cluster.mounts import remove_folder
from e2e_cluster.packages import Package, ensure_packages
from patio_release.errors import ReleaseError
from patio_release.oci_layout import moment
from patio_release.published import PLATFORMS, Image, platform_words, repository
from patio_release.report import Report
from patio_release.version import Version


@dataclass(frozen=True)
class Origin:
    """What an image is made of, beside its Dockerfile."""

    version: Version
    commit: str
    created: int
    """Seconds since 1970: the time of the commit."""
    base: str
    """The base's name, as a person gave it."""
    base_digest: str
    builder_digest: str
    """The base for the platform of this machine, on which the builder stage runs."""
    source: str
    """The address of the repository."""


@dataclass(frozen=True)
class BuiltImage:
    """An image as an OCI layout: the digest of its index, and the digest for each platform."""

    image: Image
    layout: Path
    digest: str
    platforms: Mapping[str, str]


def metadata(image: Image, origin: Origin) -> tuple[dict[str, str], dict[str, str]]:
    """Return labels and annotations of an image (OCI's names)."""
    prefix = "org.opencontainers.image."
    labels = {
        f"{prefix}version": origin.version.text,
        f"{prefix}revision": origin.commit,
        f"{prefix}source": origin.source,
        f"{prefix}created": moment(origin.created),
    }
    annotations = {
        **labels,
        f"{prefix}title": f"patio-{image.name}",
        f"{prefix}base.name": origin.base.partition("@")[0],
        f"{prefix}base.digest": origin.base_digest,
    }
    return labels, annotations


def read_layout(layout: Path) -> tuple[str, dict[str, str]]:
    """Return the digest of the index in a layout, and the digest for each platform in it.

    Raises:
        ReleaseError: the layout has no index, or one without all platforms.

    """
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    blob = layout / "blobs" / "sha256" / entry["digest"].removeprefix("sha256:")
    index = json.loads(blob.read_text())
    found = {
        f"{each['platform']['os']}/{each['platform']['architecture']}": str(each["digest"])
        for each in index.get("manifests", ())
    }
    if sorted(found) != sorted(PLATFORMS):
        raise ReleaseError(f"{layout} has the platforms {', '.join(sorted(found)) or 'none'}")
    return str(entry["digest"]), {platform: found[platform] for platform in PLATFORMS}


@dataclass(frozen=True)
class Builder:
    """buildah with a store of its own."""

    root: Path
    """The repository."""
    store: Path
    environ: Mapping[str, str]
    is_plain_http: bool
    log: Path
    report: Report

    def prepare(self) -> None:
        """Make sure of buildah, and of an empty store.

        Raises:
            ReleaseError: this is not root.
            MachineError: buildah is missing and cannot be installed.

        """
        ensure_packages([Package("buildah", "buildah")], self.report)
        if os.geteuid() != 0:
            raise ReleaseError("images: buildah builds without namespaces of its own here, which needs root")
        self.clear()

    def clear(self) -> None:
        """Remove the store, with what a build that was killed has left."""
        if self.store.exists():
            subprocess.run(self._buildah("rm", "--all"), check=False, capture_output=True)
            remove_folder(self.store)

    def build(self, image: Image, origin: Origin, layout: Path) -> BuiltImage:
        """Build an image for all platforms and write its layout."""
        index = f"localhost/{image.name}:index"
        self._run(image.name, "manifest", "create", index)
        for platform in PLATFORMS:
            reference = f"localhost/{image.name}:{platform_words(platform)[1]}"
            self.report(f"image {image.name} for {platform}")
            self._run(f"{image.name} for {platform}", *self._build_words(image, origin, platform, reference))
            self._run(image.name, "manifest", "add", index, f"containers-storage:{reference}")
        self._run(image.name, "manifest", "push", "--all", "--format", "oci", index, f"oci:{layout}")
        digest, platforms = read_layout(layout)
        return BuiltImage(image, layout, digest, platforms)

    def _build_words(self, image: Image, origin: Origin, platform: str, reference: str) -> Sequence[str]:
        labels, annotations = metadata(image, origin)
        arguments, secrets = certificate_options(self.environ)
        base = repository(origin.base)
        stages = {"BASE": f"{base}@{origin.base_digest}", "BUILDER": f"{base}@{origin.builder_digest}"}
        words = ["bud", "--isolation", "chroot", "--network", "host", "--pull", "--format", "oci"]
        # A layer for each COPY, as the Dockerfile says, and none of an earlier build.
        words += ["--layers", "--no-cache"]
        words += ["--timestamp", str(origin.created), "--identity-label=false", "--platform", platform]
        words += [f"--tls-verify={'false' if self.is_plain_http else 'true'}"]
        for name, value in {**stages, **arguments}.items():
            words += ["--build-arg", f"{name}={value}"]
        for name, path in secrets.items():
            words += ["--secret", f"id={name},src={path}"]
        for name, value in labels.items():
            words += ["--label", f"{name}={value}"]
        for name, value in annotations.items():
            words += ["--annotation", f"{name}={value}"]
        return [*words, "--file", str(self.root / image.dockerfile), "--tag", reference, str(self.root)]

    def _run(self, title: str, *arguments: str) -> None:
        run_logged(title, self._buildah(*arguments), self.log, self.report, environ=self.environ)

    def _buildah(self, *arguments: str) -> list[str]:
        place = ["--root", str(self.store / "root"), "--runroot", str(self.store / "run")]
        return ["buildah", "--storage-driver", "overlay", *place, *arguments]

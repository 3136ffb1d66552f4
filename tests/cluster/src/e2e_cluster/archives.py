"""Image archives as `docker save` and `buildah push docker-archive:` write them: reading and making.

Reading tells which names an archive brings and the identity of their content; making serves for images of one layer
of files of this machine, most of them of one static program.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.errors import ClusterError

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture() -> str:
    """This machine's architecture, as images name it."""
    machine = platform.machine()
    return ARCHITECTURES.get(machine, machine)


@dataclass(frozen=True)
class ArchivedImage:
    """An image in an archive: its name, and the digest of its configuration, which names its content."""

    name: str
    identity: str


def read_archive(archive: Path) -> list[ArchivedImage]:
    """The named images in a docker-archive."""
    try:
        with tarfile.open(archive) as tar:
            member = tar.extractfile("manifest.json")
            if member is None:
                raise KeyError("manifest.json")
            manifest = json.load(member)
    except (OSError, KeyError, tarfile.TarError, ValueError) as error:
        raise ClusterError(f"{archive} is not an image archive (docker-archive): {error}") from error
    images = [ArchivedImage(name, entry["Config"]) for entry in manifest for name in entry.get("RepoTags") or ()]
    if not images:
        raise ClusterError(f"{archive} holds no image with a name: push it as docker-archive:FILE:NAME")
    return images


NOBODY, ROOT = "65535:65535", "0:0"
"""Users of an image."""


def write_single_file_image(
    archive: Path, *, name: str, program: Path, architecture: str, place: str | None = None, user: str = NOBODY
) -> None:
    """An image that holds one static program and runs it; the same input makes the same bytes.

    Args:
        archive: the file to write.
        name: the image's name with its tag.
        program: the program on this machine.
        architecture: as Go and images name it, such as ``amd64``.
        place: the program's path in the image, without the first slash; by default its name.
        user: who runs it.

    """
    place = place or program.name
    files = {place: program}
    write_image(archive, name=name, files=files, entrypoint=f"/{place}", architecture=architecture, user=user)


def write_image(
    archive: Path, *, name: str, files: Mapping[str, Path], entrypoint: str, architecture: str, user: str
) -> None:
    """An image of one layer; the same input makes the same bytes.

    Args:
        archive: the file to write.
        name: the image's name with its tag.
        files: what is in it: paths without the first slash, and the files of this machine. All may be executed.
        entrypoint: the program that runs.
        architecture: as Go and images name it, such as ``amd64``.
        user: who runs it.

    """
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for place, file in sorted(files.items()):
            _add(tar, place, file.read_bytes(), mode=0o755)
    configuration = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [entrypoint], "User": user},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer.getvalue())}"]},
        }
    ).encode()
    config_name = f"{_sha256(configuration)}.json"
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        _add(tar, config_name, configuration)
        _add(tar, "layer.tar", layer.getvalue())
        _add(tar, "manifest.json", json.dumps(manifest).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))

"""Our images: from a Dockerfile of this tree to an archive that a cluster can load.

    python -m e2e_cluster.images build [--tag dev] [--base IMAGE] [IMAGE ...]

An archive is kept under the cache by a key made of all that goes into the image, so an unchanged image costs a few
milliseconds. `image_builders` does the building, `base_image` makes a base where no public one can be had, the
providers load the archives. Certificates of this machine reach a build as a secret, never an image. What a base image
of a given name holds is not part of the key: after a new public base, delete the cache's `images` folder.
"""

import argparse
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.base_image import base_key, root_archive
from e2e_cluster.binaries import locked
from e2e_cluster.errors import ClusterError
from e2e_cluster.image_builders import Build, ImageBuilder, find_builder
from e2e_cluster.places import cache_root
from e2e_cluster.progress import Report, silent, timed

PUBLIC_BASE = "docker.io/library/python:3.11-slim-bookworm"
"""The default of BASE in the Dockerfiles."""
DOCKERFILES = {
    "sidecar": "sidecar/Dockerfile",
    "operator": "operator/Dockerfile",
    "engine-double": "tests/doubles/engine/Dockerfile",
    "engine-base": "tests/cluster/images/engine-base.Dockerfile",
    "sample-parts": "tests/cluster/images/sample-parts.Dockerfile",
}
KEPT = 3
"""Archives kept of each image: a few, since they are large and going back one change is common."""


@dataclass(frozen=True)
class Image:
    """A built image: its reference, as pods name it but with the registry in front, and its docker-archive."""

    name: str
    ref: str
    archive: Path


def build(
    names: Sequence[str] = tuple(DOCKERFILES),
    tag: str = "dev",
    *,
    base: str | None = None,
    report: Report = silent,
    environ: Mapping[str, str] = os.environ,
    builder: ImageBuilder | None = None,
) -> list[Image]:
    """Build what has changed and name the archives of all.

    Raises:
        ClusterError: a program is missing, or a build failed; the message ends with its last words.

    """
    repository, cache = _repository(), cache_root(environ)
    builder = builder or find_builder(cache, report)
    chosen = base or environ.get("PATIO_BASE_IMAGE") or None
    folder = cache / "images"
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for name in names:
        ref = f"ghcr.io/patio/{name}:{tag}"
        base_name = chosen or f"{builder.name} {PUBLIC_BASE} {base_key()}"
        key = image_key(repository, DOCKERFILES[name], ref, base_name)
        image = Image(name, ref, folder / f"{name}-{key}.tar")
        if not image.archive.exists():
            with locked(folder / ".lock", report, "another run builds images: waiting for it"):
                if not image.archive.exists():
                    _build(image, builder, repository, cache, chosen, environ, report)
        image.archive.touch()
        images.append(image)
    return images


def image_key(repository: Path, dockerfile: str, ref: str, base: str) -> str:
    """A digest of all that goes into an image: its names and every file that its Dockerfile copies."""
    digest = hashlib.sha256()
    text = (repository / dockerfile).read_text()
    for part in (ref, base, text):
        digest.update(f"{len(part)}:{part}".encode())
    for copied in copied_paths(text):
        for path in _files(repository / copied):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(repository)}:{len(content)}:".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def copied_paths(dockerfile: str) -> list[str]:
    """What the Dockerfile copies from its context, in its order."""
    paths: list[str] = []
    for line in dockerfile.splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not any(word.startswith("--from=") for word in words):
            paths += [word for word in words[1:-1] if not word.startswith("--")]
    return paths


def certificate_options(environ: Mapping[str, str]) -> tuple[dict[str, str], dict[str, Path]]:
    """Build arguments and secrets for a machine whose network has a certificate authority of its own."""
    bundle = environ.get("PIP_CERT") or environ.get("SSL_CERT_FILE")
    if not bundle:
        return {}, {}
    inside = "/run/secrets/ca-bundle"
    return {"PIP_CERT": inside, "SSL_CERT_FILE": inside}, {"ca-bundle": Path(bundle)}


def _build(
    image: Image,
    builder: ImageBuilder,
    repository: Path,
    cache: Path,
    chosen: str | None,
    environ: Mapping[str, str],
    report: Report,
) -> None:
    started = time.monotonic()
    log = image.archive.parent / f"{image.name}.log"
    log.unlink(missing_ok=True)
    report(f"image {image.name}: building with {builder.name} (log: {log})")
    arguments, secrets = certificate_options(environ)
    dockerfile = repository / DOCKERFILES[image.name]
    builder.tidy()  # after a build that was killed
    try:
        arguments["BASE"] = chosen or _base(builder, cache, log, report)
        builder.build(Build(image.ref, dockerfile, repository, arguments, secrets), log, report)
    finally:
        builder.tidy()
    partial = image.archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    builder.save(image.ref, partial, log, report)
    partial.rename(image.archive)
    size = image.archive.stat().st_size / 1e6
    report(f"image {image.name}: {image.ref}, {size:.0f} MB, {time.monotonic() - started:.0f} s")
    older = sorted(image.archive.parent.glob(f"{image.name}-{'?' * 16}.tar"), key=lambda path: path.stat().st_mtime)
    for archive in older[:-KEPT]:
        archive.unlink(missing_ok=True)


def _base(builder: ImageBuilder, cache: Path, log: Path, report: Report) -> str:
    if builder.name == "docker" and builder.can_get(PUBLIC_BASE):
        return PUBLIC_BASE
    ref = f"localhost/patio-base:{base_key()}"
    if not builder.can_get(ref):
        builder.import_root(root_archive(cache, report), ref, log, report)
    return ref


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in sorted(path.iterdir()):
        if child.name != "__pycache__":
            yield from _files(child)


def _repository() -> Path:
    for folder in Path(__file__).resolve().parents:
        if (folder / "uv.lock").exists():
            return folder
    raise ClusterError("images: this package must be run from its source tree: no uv.lock above it.")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the build command's arguments; for the package's own command line as well."""
    parser.add_argument("names", nargs="*", metavar="IMAGE", help=f"of {', '.join(DOCKERFILES)}; default: all")
    parser.add_argument("--tag", default="dev", help="the tag of the images (default: dev)")
    parser.add_argument("--base", help="build on this image (default: PATIO_BASE_IMAGE, else one that can be had)")


def run(arguments: argparse.Namespace, report: Report) -> int:
    """Build, and print one line for each image: its reference and its archive."""
    if unknown := sorted(set(arguments.names) - set(DOCKERFILES)):
        raise ClusterError(f"images: there is no {', '.join(unknown)}; there are {', '.join(DOCKERFILES)}.")
    for image in build(arguments.names or tuple(DOCKERFILES), arguments.tag, base=arguments.base, report=report):
        print(f"{image.ref} {image.archive}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run `python -m e2e_cluster.images`."""
    parser = argparse.ArgumentParser(prog="e2e_cluster.images", description="Build Patio's images.")
    commands = parser.add_subparsers(dest="command", required=True)
    add_arguments(commands.add_parser("build", help="build what has changed"))
    arguments = parser.parse_args(argv)
    try:
        return run(arguments, timed())
    except ClusterError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

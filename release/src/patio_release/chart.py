"""The chart as it is released: it names images by digest, and its archive has the same bytes each time. Pure.

A chart of the tree names images by its version as a tag. A released one has their digests as annotations, which its
templates use, and the changes of the version for Artifact Hub. Its values are those of the tree; only another registry
than the published one changes the images' names there. `helm package` writes the current time into the archive, so the
archive is made here.
"""

import gzip
import io
import re
import tarfile
from collections.abc import Mapping, Sequence

import yaml

from patio_release.errors import ReleaseError
from patio_release.published import IMAGES
from patio_release.version import Version

VALUES = "values.yaml"
METADATA = "Chart.yaml"


def released(
    files: Mapping[str, bytes], registry: str, digests: Mapping[str, str], changes: Sequence[Mapping[str, str]]
) -> dict[str, bytes]:
    """Return the files of the released chart.

    Args:
        files: the files of the tree's chart, by their paths in it.
        registry: the prefix of the images' names.
        digests: the digest of each image by its name.
        changes: what Artifact Hub shows of the version.

    Raises:
        ReleaseError: the values have another form than this function replaces.

    """
    values = with_names(files[VALUES].decode(), registry)
    metadata = with_images(files[METADATA].decode(), registry, digests).rstrip("\n") + "\n"
    # What templates/_helpers.tpl names an image by, unless a value says otherwise.
    metadata += "".join(f"  patio.dev/{name}-digest: {digest}\n" for name, digest in digests.items())
    if changes:
        listed = yaml.safe_dump(list(changes), sort_keys=False, allow_unicode=True, width=1000)
        block = "".join(f"    {line}\n" for line in listed.splitlines())
        metadata += f"  artifacthub.io/changes: |\n{block}"
    return {**files, VALUES: values.encode(), METADATA: metadata.encode()}


def with_names(values: str, registry: str) -> str:
    """Return values.yaml with the images' names in a registry as defaults, comments and order kept."""
    for image in IMAGES:
        missing = f"{VALUES} has no {image.name}.image.repository"
        values = _replaced(values, rf"^(    repository: )\S+/{image.name}$", f"{registry}/{image.name}", missing)
    return values


def with_images(metadata: str, registry: str, digests: Mapping[str, str]) -> str:
    """Return Chart.yaml with the released images in the annotation that Artifact Hub reads."""
    for image in IMAGES:
        missing = f"{METADATA} does not list the image {image.name}"
        reference = f"{registry}/{image.name}@{digests[image.name]}"
        metadata = _replaced(metadata, rf"^(    - name: {image.name}\n      image: )\S+$", reference, missing)
    return metadata


def _replaced(text: str, pattern: str, value: str, missing: str) -> str:
    """Return a text with a value in place of what follows the pattern's group, which must be there once."""
    text, count = re.subn(pattern, lambda match: match[1] + value, text, flags=re.MULTILINE)
    if count != 1:
        raise ReleaseError(missing)
    return text


def packed(files: Mapping[str, bytes], name: str, created: int) -> bytes:
    """Return the chart's archive: Chart.yaml first, as `helm package` has it, then the others by name.

    Args:
        files: the files of the chart, by their paths in it.
        name: the chart's name, which is the folder in the archive.
        created: seconds since 1970, the time of each file.

    """
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(files, key=lambda path: (path != METADATA, path)):
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode, entry.mtime = len(files[path]), 0o644, created
            tar.addfile(entry, io.BytesIO(files[path]))
    return gzip.compress(plain.getvalue(), compresslevel=9, mtime=created)


def archive_name(version: Version) -> str:
    """Return the name of the archive, as `helm package` names it."""
    return f"patio-{version.text}.tgz"

"""The checksums of a release's files, as `sha256sum --check` reads them. Pure."""

import hashlib
from collections.abc import Mapping

FILE = "SHA256SUMS"


def checksums(files: Mapping[str, bytes]) -> str:
    """Return a line for each file, in the order of their names."""
    return "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))

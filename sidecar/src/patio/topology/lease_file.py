"""The file in which leases outlive the sidecar beside a router, so that a worker that dies meanwhile is not kept for
ever.

Written whole, forced to disk and renamed. A missing or broken file is no leases: pods speak again within a heartbeat.
No keys in it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from patio.atomic_file import replace_file

log = logging.getLogger(__name__)

LARGEST = 16 * 2**20
_CONTENT: TypeAdapter[dict[str, tuple[str, float]]] = TypeAdapter(dict[str, tuple[str, float]])


class LeaseFile:
    """The file. `path` None keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def load(self) -> dict[str, tuple[str, float]]:
        """Return URL and seconds of each lease, by id."""
        if self._path is None:
            return {}
        try:
            with self._path.open("rb") as file:
                content = file.read(LARGEST + 1)
            if len(content) > LARGEST:
                raise OSError(f"it has more than {LARGEST} bytes")
            return _CONTENT.validate_json(content)
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            log.error("lease file not read path=%s error=%s", self._path, " ".join(str(error)[:500].split()))
            return {}

    def save(self, leases: Mapping[str, tuple[str, float]]) -> None:
        """Write all of them; raise `OSError`."""
        if self._path is None:
            return
        replace_file(self._path, _CONTENT.dump_json(dict(leases)))

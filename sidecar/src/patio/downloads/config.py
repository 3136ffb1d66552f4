"""What the sidecar was told about downloads: where files may go, and the credentials of its variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from patio.api.downloads_protocol import DEFAULT_DOWNLOAD_ROOT


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """Settings of downloads, checked."""

    root: Path = Path(DEFAULT_DOWNLOAD_ROOT)
    """Where downloads without an `output_dir` go; Patio's own."""
    other_roots: tuple[Path, ...] = ()
    """Where an `output_dir` may be as well, and where pvc:// and file:// sources may lie."""
    all_files: bool = False
    """Also take weights in formats that run code when they are loaded, and everything else that a source has."""
    limit: int | None = None
    """Most bytes that may lie under `root`."""
    hf_token: str | None = field(default=None, repr=False)
    hf_endpoint: str | None = None
    hf_revision: str | None = None
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    endpoint: str | None = None

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every folder below which files may be written."""
        return (self.root, *self.other_roots)

    @property
    def config(self) -> dict[str, str]:
        """The variables, under the keys that `config` of a request has for them."""
        said = {
            "hf_token": self.hf_token,
            "hf_endpoint": self.hf_endpoint,
            "hf_revision": self.hf_revision,
            "access_key": self.access_key,
            "secret_key": self.secret_key,
            "endpoint": self.endpoint,
        }
        return {key: value for key, value in said.items() if value is not None}

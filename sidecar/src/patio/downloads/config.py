"""What the sidecar was told about downloads: where files may go, and the credentials of its variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from patio_protocol.downloads import DEFAULT_DOWNLOAD_ROOT
from patio_protocol.sources import SourceKind


@dataclass(frozen=True, slots=True)
class StandardVariables:
    """What the variables say that other programs read too: for S3 alone, and where Patio's own do not."""

    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    region: str | None = None
    """Where neither an order nor the endpoint's name tells it."""


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
    session_token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    region: str | None = None
    addressing_style: str | None = None
    plain_http: bool = False
    """Send these credentials to an endpoint without TLS as well."""
    standard: StandardVariables = field(default_factory=StandardVariables)

    @property
    def roots(self) -> tuple[Path, ...]:
        """Every folder below which files may be written."""
        return (self.root, *self.other_roots)

    def config(self, kind: SourceKind) -> dict[str, str]:
        """Return what the variables say for a kind of source, under the keys that `config` of a request has."""
        standard = self.standard if kind is SourceKind.S3 else StandardVariables()
        keys = self if self.access_key is not None else standard
        said = {
            "hf_token": self.hf_token,
            "hf_endpoint": self.hf_endpoint,
            "hf_revision": self.hf_revision,
            "access_key": keys.access_key,
            "secret_key": keys.secret_key,
            "session_token": keys.session_token,
            "endpoint": self.endpoint or standard.endpoint,
            "region": self.region,
            "default_region": standard.region,
            "addressing_style": self.addressing_style,
            "allow_plain_http": "true" if self.plain_http else None,
        }
        return {key: value for key, value in said.items() if value is not None}

"""Models of the download routes, shared by the routes, `client` and the downloads themselves. Pure data.

Requests have upstream's shape (`source`, `output_dir`, `config` as a JSON string, `max_workers`, `async_download`). A
request may carry credentials in `config`; a report never does.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from patio_protocol.adapters import ErrorDetail
from patio_protocol.sources import MaxWorkers, OutputDir, SourceConfig, SourceUri

DOWNLOAD_ROOT_VARIABLE = "PATIO_DOWNLOAD_ROOT"
"""The folder of downloads, which sidecar and engine see under the same path."""
DOWNLOAD_ROOTS_VARIABLE = "PATIO_DOWNLOAD_ROOTS"
"""Other folders below which an `output_dir`, pvc:// and file:// sources may lie; set at admission."""
DEFAULT_DOWNLOAD_ROOT = "/var/lib/patio-adapters"


class DownloadState(StrEnum):
    """State of a download."""

    QUEUED = "Queued"
    """Waits for a slot: the number of concurrent downloads is limited."""
    RUNNING = "Running"
    WAITING = "Waiting"
    """Waits for another process that writes to the same folder, or for the next attempt. It continues by itself."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"


class DownloadReason(StrEnum):
    """Why a download did not succeed: CamelCase and stable, shown in reports, metrics and conditions."""

    INVALID = "InvalidSource"
    """The request can never succeed: a folder outside the roots, or an invalid address."""
    NOT_FOUND = "SourceNotFound"
    UNAUTHORIZED = "SourceUnauthorized"
    REJECTED = "SourceRejected"
    """It is there, and must not be taken: names that leave their folder, or nothing but weights that run code."""
    NOT_WRITABLE = "NotWritable"
    NO_SPACE = "NoSpace"
    UNREACHABLE = "SourceUnreachable"
    ERROR = "SourceError"
    """The source answered with a temporary error."""
    SLOW = "SourceTooSlow"
    """The source is so slow that it would delay other downloads."""
    BUSY = "FolderBusy"
    """Another process writes to the folder."""
    CHANGED = "SourceChanged"
    """The source changed while it was read."""
    CORRUPT = "DownloadCorrupt"
    """What arrived has another size or hash."""
    INTERRUPTED = "DownloadInterrupted"
    """The process that downloads died."""
    TOO_MANY = "TooManyDownloads"
    """The queue of downloads is full."""
    CANCELLED = "Cancelled"
    CREDENTIALS_MISSING = "CredentialsMissing"
    """The sidecar restarted after the order, and credentials are never stored."""


class DownloadRequest(BaseModel):
    """`POST /v1/download_model`: fetch a folder."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [{"source": "hf://org/repo@main", "output_dir": "/models/repo", "async_download": True}]
        },
    )

    source: SourceUri = Field(description="hf:// s3:// obs:// pvc:// file:// or a bare Hugging Face `org/repo`.")
    output_dir: OutputDir | None = Field(
        default=None,
        description="Folder in which the files appear; below an allowed root. Default: a folder of Patio's own.",
    )
    config: SourceConfig | None = Field(
        default=None,
        repr=False,
        description="A JSON object in a string: hf_token, hf_endpoint, hf_revision, access_key, secret_key, "
        "session_token, endpoint, region, addressing_style, allow_plain_http. Absent keys come from the sidecar's "
        "variables.",
    )
    max_workers: MaxWorkers = Field(default=8, description="Files fetched at once.")
    async_download: bool = Field(default=False, description="Answer at once with 202, and download in the background.")


class SkippedFile(BaseModel):
    """A file of the source that is not fetched."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    why: str


class DownloadReport(BaseModel):
    """State of one download."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    source: str
    state: DownloadState
    path: str | None = Field(default=None, description="Folder to read the files from: `output_dir` if it was given.")
    folder: str | None = Field(
        default=None, description="Folder of exactly this revision; never changed after the download."
    )
    revision: str | None = Field(default=None, description="Commit, or a digest of names, sizes and ETags.")
    files_total: int | None = None
    files_done: int = 0
    bytes_total: int | None = None
    bytes_done: int = Field(default=0, description="Bytes on disk, those of earlier attempts included.")
    bytes_fetched: int = Field(default=0, description="Bytes read from the source, by all attempts of this download.")
    skipped: tuple[SkippedFile, ...] = Field(default=(), description="Files that are not fetched, at most 100 of them.")
    skipped_total: int = 0
    message: str = Field(default="", description="The current step, in a sentence.")
    error: ErrorDetail | None = Field(
        default=None, description="Why the download failed, or why it waits for the next attempt."
    )
    attempts: int = 0
    created: float = Field(description="Unix seconds.")
    finished: float | None = None


class DownloadList(BaseModel):
    """`GET /v1/downloads`: the downloads in progress, and the last that ended."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    downloads: tuple[DownloadReport, ...] = ()

"""What parent and worker tell each other: one job on stdin, events on stdout, all as JSON lines. Pure.

The job is the only place where credentials go to the worker; no event ever holds one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from patio_protocol.downloads import DownloadReason, SkippedFile
from patio_protocol.sources import SECRET_KEYS, Source


@dataclass(frozen=True, slots=True)
class Job:
    """A download, with all that it takes."""

    source: Source
    config: dict[str, str] = field(repr=False)
    """What `config` and the variables say, credentials included."""
    revisions: str
    shown: str | None
    root: str
    roots: tuple[str, ...]
    max_workers: int
    all_files: bool
    limit: int | None

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must never be seen."""
        return tuple(value for key, value in self.config.items() if key in SECRET_KEYS)


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Noted(_Event):
    """What it is doing."""

    event: Literal["noted"] = "noted"
    message: str


class Listed(_Event):
    """The source was listed."""

    event: Literal["listed"] = "listed"
    revision: str
    files: int
    size: int
    skipped: tuple[SkippedFile, ...] = ()
    skipped_total: int = 0


class Moved(_Event):
    """Bytes arrived."""

    event: Literal["moved"] = "moved"
    files_done: int
    bytes_done: int
    bytes_fetched: int
    """By this worker."""


class Done(_Event):
    """The folder is whole and in its place."""

    event: Literal["done"] = "done"
    revision: str
    folder: str


class Failed(_Event):
    """It did not work."""

    event: Literal["failed"] = "failed"
    reason: DownloadReason
    message: str
    retry_after: float | None = None


Event = Noted | Listed | Moved | Done | Failed

JOB: TypeAdapter[Job] = TypeAdapter(Job)
EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])

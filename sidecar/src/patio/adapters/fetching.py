"""Adapters whose files are fetched: what is wanted of a source, and who fetches it. Pure, and a protocol.

`desired` keeps an `Origin`; the reconciler hands it, with the credentials that only memory has, to a `Fetcher`. Who
that is `app` knows; adapters know nothing of how files are fetched.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Annotated, Protocol

from pydantic import Field

from patio_protocol.adapters import LoadRequest
from patio_protocol.downloads import DownloadReport
from patio_protocol.sources import SECRET_KEYS, Source, parse_source, read_config, without_secrets

Credentials = Mapping[str, str]
"""The secret part of a `config`, by its keys. Never stored, shown or logged."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an adapter's files come from, without credentials: it is written to the state file."""

    uri: str
    output_dir: str | None = None
    options: tuple[tuple[str, str], ...] = ()
    """What `config` says that is no secret."""
    secrets: tuple[str, ...] = field(default=(), compare=False)
    """Names of the credentials that the order came with. The files are the same with others."""
    expects: bool = field(default=False, compare=False)
    """Its credentials come with a later order."""
    max_workers: int = field(default=8, compare=False)
    parsed: Annotated[Source | None, Field(exclude=True)] = field(default=None, compare=False, repr=False)
    """The parsed `uri`; not in the state file, so None after a restart."""

    @property
    def source(self) -> Source:
        """The parsed `uri`."""
        return parse_source(self.uri) if self.parsed is None else self.parsed


class Fetcher(Protocol):
    """Brings files to the disk that sidecar and engine share."""

    async def fetch(
        self, source: Source, config: Mapping[str, str], output_dir: str | None, max_workers: int
    ) -> DownloadReport:
        """Fetch a source, or join the download in progress; return how it ended. Cancelled, it may stop.

        `config` has the options and credentials, as `read_config` returns them.
        """

    async def pin(self, folder: str) -> bool:
        """Keep a folder from being removed; return whether it exists."""

    def set_in_use(self, folders: Set[str]) -> None:
        """Say which folders are wanted or loaded; of the others those may go that a newer one replaced."""

    def on_disk(self) -> frozenset[str]:
        """Return the sources whose files are on disk, as of the last read of the disk."""


def files_of(request: LoadRequest) -> tuple[str, Origin | None]:
    """Return the path that an order names, or nothing and the origin from which the path will come."""
    if request.lora_path is not None:
        return request.lora_path, None
    assert request.source is not None
    source = parse_source(request.source)
    if request.used_in_place:
        return source.path, None
    config = read_config(request.config)
    return "", Origin(
        uri=str(source),
        output_dir=request.output_dir,
        options=tuple(sorted(without_secrets(config).items())),
        secrets=tuple(sorted(key for key in config if key in SECRET_KEYS)),
        expects=request.expects_credentials,
        max_workers=request.max_workers,
        parsed=source,
    )


def credentials_of(request: LoadRequest) -> Credentials:
    """Return the credentials that an order came with."""
    return {key: value for key, value in read_config(request.config).items() if key in SECRET_KEYS}


def config_of(origin: Origin, credentials: Credentials) -> dict[str, str]:
    """Return the options of an origin with credentials."""
    return {**dict(origin.options), **credentials}

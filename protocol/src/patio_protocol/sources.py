"""Sources: the URIs that say where files come from, and the `config` that goes with them. Pure.

Used wherever such a URI is taken in: the wire models reject what `parse_source` does not understand, `downloads`
fetches what it returns. Everything that could leave its folder is rejected here: a URI names a place below a
repository, a bucket or a volume, never one beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import unquote

from pydantic import AfterValidator, Field, GetCoreSchemaHandler, SerializationInfo, StringConstraints
from pydantic_core import CoreSchema, core_schema


class SourceKind(StrEnum):
    """The kinds of sources, by their schemes."""

    HF = "hf"
    S3 = "s3"
    OBS = "obs"
    PVC = "pvc"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Source:
    """A source, taken apart."""

    kind: SourceKind
    name: str
    """Repository (`org/repo`) or bucket; empty for pvc and file."""
    path: str
    """Folder inside it, without slashes at its ends; for file, and pvc where it was given so, an absolute path."""
    revision: str | None = None
    """Hugging Face only: branch, tag or commit, when the URI names one."""

    def __str__(self) -> str:
        at = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        return f"{self.kind}://" + "/".join(part for part in (self.name + at, self.path) if part)


SECRET_KEYS = ("hf_token", "access_key", "secret_key", "session_token")
"""Keys of `config` whose values are never stored, shown or logged."""
OPTION_KEYS = ("hf_endpoint", "hf_revision", "endpoint", "region", "addressing_style", "allow_plain_http")
"""Keys of `config` that are no secrets."""

MAX_CONFIG = 65536
"""Characters of a `config` on the wire."""

ADDRESSING_STYLES = ("auto", "path", "virtual")

_FORMS = (
    "hf://org/repo[@revision][/folder], s3://bucket/folder, obs://bucket/folder, pvc://folder, file:///folder, org/repo"
)
_REPOSITORY_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
_PAGES = ("tree/", "blob/", "resolve/")
"""How folders of a repository begin in copied web addresses."""
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]{0,254}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def parse_source(uri: str) -> Source:
    """Take a source apart; raise `ValueError` with a sentence. Nothing is percent-decoded but a revision."""
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return _repository(uri, uri, folder_allowed=False)
    try:
        kind = SourceKind(scheme)
    except ValueError:
        if scheme in ("http", "https"):
            message = "is a web address: write hf://org/repo[@revision][/folder], or s3:// with a separate endpoint"
            raise ValueError(f"{_shown(uri)} {message}") from None
        raise ValueError(f"{_shown(uri)} is not one of {_FORMS}") from None
    if kind is SourceKind.HF:
        return _repository(uri, rest, folder_allowed=True)
    if kind in (SourceKind.S3, SourceKind.OBS):
        bucket, _, folder = rest.partition("/")
        if not _BUCKET.fullmatch(bucket) or ".." in bucket:
            raise ValueError(f"{_shown(uri)} does not begin with the name of a bucket")
        return Source(kind, bucket, _folder(uri, folder))
    absolute = rest.startswith("/")
    if kind is SourceKind.FILE and not absolute:
        raise ValueError(f"{_shown(uri)} is not file:///absolute/path")
    folder = _folder(uri, rest)
    if not folder:
        raise ValueError(f"{_shown(uri)} does not name a folder")
    return Source(kind, "", "/" + folder if absolute else folder)


def check_revision(revision: str) -> str:
    """Return a Hugging Face revision; raise `ValueError` for what can not be one."""
    if not _REVISION.fullmatch(revision) or ".." in revision or "//" in revision or revision.endswith(("/", ".lock")):
        raise ValueError("the revision is not the name of a branch, tag or commit")
    return revision


def check_endpoint(endpoint: str) -> str:
    """Return an endpoint as a base URL (`https://` if it has no scheme); raise `ValueError`, without the value."""
    url = endpoint if "://" in endpoint else f"https://{endpoint}"
    if not re.fullmatch(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~/-]*)?", url):
        raise ValueError("the endpoint is not a URL like https://s3.example.com")
    return url.rstrip("/")


def check_region(region: str) -> str:
    """Return the name of a region; raise `ValueError` for what can not be one."""
    if not re.fullmatch(r"[A-Za-z0-9-]{1,64}", region):
        raise ValueError("the value is not the name of a region")
    return region


class SourceConfig(Mapping[str, str]):
    """`config` of an order: options and credentials of its source, by key. Immutable, and its repr has no value.

    On the wire it is a JSON object in a string, as upstream has it. The values are as the caller wrote them, since the
    digest of an order is made of them; `read_config` returns what they mean.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    @classmethod
    def parse(cls, text: str) -> SourceConfig:
        """Read what is on the wire; raise `ValueError` that names keys, never values."""
        try:
            found = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError):
            raise ValueError("config is not a JSON object in a string") from None
        if not isinstance(found, dict):
            raise ValueError("config is not a JSON object in a string")
        _check_keys(found)
        wrong = sorted(key for key, value in found.items() if value is not None and not isinstance(value, str))
        if wrong:
            raise ValueError(f"config: {', '.join(wrong)} is not a string")
        config = cls({key: value for key, value in found.items() if value is not None})
        read_config(config)
        return config

    def to_json(self) -> str:
        """Return what is on the wire."""
        return json.dumps(self._values)

    def check(self) -> None:
        """Raise `ValueError` for what no order can have; it names keys, never values."""
        if len(self.to_json()) > MAX_CONFIG:
            raise ValueError(f"config is longer than {MAX_CONFIG} characters")
        read_config(self)

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash(frozenset(self._values.items()))

    def __repr__(self) -> str:
        return f"SourceConfig({', '.join(sorted(self._values))})"

    @classmethod
    def __get_pydantic_core_schema__(cls, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Have models take a text, or a value of this class; a JSON object is neither, on the wire as before."""

        def read(value: object, text: Callable[[object], str]) -> SourceConfig:
            if isinstance(value, SourceConfig):
                value.check()
                return value
            return cls.parse(text(value))

        def write(value: SourceConfig, info: SerializationInfo) -> SourceConfig | str:
            return value.to_json() if info.mode_is_json() else value

        return core_schema.no_info_wrap_validator_function(
            read,
            core_schema.str_schema(max_length=MAX_CONFIG),
            serialization=core_schema.plain_serializer_function_ser_schema(write, info_arg=True),
        )


def read_config(config: Mapping[str, str] | None) -> dict[str, str]:
    """Return what a `config` means, without blanks; raise `ValueError` that names keys, never values."""
    if config is None:
        return {}
    _check_keys(config)
    values = {key: value.strip() for key, value in config.items() if value.strip()}
    broken = sorted(key for key, value in values.items() if _CONTROL.search(value))
    if broken:
        raise ValueError(f"config: {', '.join(broken)} has a character that is not allowed")
    if ("access_key" in values) != ("secret_key" in values):
        raise ValueError("config: access_key and secret_key must be given together")
    for key in ("hf_endpoint", "endpoint"):
        if key in values:
            values[key] = _named(key, check_endpoint, values[key])
    if "hf_revision" in values:
        values["hf_revision"] = _named("hf_revision", check_revision, values["hf_revision"])
    if values.get("addressing_style", "auto") not in ADDRESSING_STYLES:
        raise ValueError(f"config: addressing_style is not one of {', '.join(ADDRESSING_STYLES)}")
    if "region" in values:
        values["region"] = _named("region", check_region, values["region"])
    if values.get("allow_plain_http", "true") not in ("true", "false"):
        raise ValueError("config: allow_plain_http is not true or false")
    for key in SECRET_KEYS:
        if not re.fullmatch(r"[\x21-\x7e]{1,8192}", values.get(key, "x")):
            raise ValueError(f"config: {key} has a character that is not allowed, or is too long")
    return values


def without_secrets(config: Mapping[str, str]) -> dict[str, str]:
    """Return the part of a config that may be stored and shown."""
    return {key: value for key, value in config.items() if key not in SECRET_KEYS}


def _repository(uri: str, rest: str, *, folder_allowed: bool) -> Source:
    organisation, _, tail = rest.partition("/")
    repository, _, folder = tail.partition("/")
    repository, at, quoted = repository.partition("@")
    if not tail and _REPOSITORY_PART.fullmatch(organisation.partition("@")[0]):
        message = "lacks the organisation of the repository: write org/repo (gpt2 is openai-community/gpt2 on the Hub)"
        raise ValueError(f"{_shown(uri)} {message}")
    if folder.lstrip("/").startswith(_PAGES):
        message = "is the address of a page of the Hub: write hf://org/repo@revision/folder"
        raise ValueError(f"{_shown(uri)} {message}")
    parts = (organisation, repository)
    if not all(_REPOSITORY_PART.fullmatch(part) and ".." not in part and "--" not in part for part in parts):
        raise ValueError(f"{_shown(uri)} is not one of {_FORMS}")
    if folder and not folder_allowed:
        raise ValueError(f"{_shown(uri)} is not one of {_FORMS}")
    try:
        revision = check_revision(unquote(quoted)) if at else None
    except ValueError as error:
        raise ValueError(f"{_shown(uri)}: {error}") from None
    return Source(SourceKind.HF, f"{organisation}/{repository}", _folder(uri, folder), revision)


def _folder(uri: str, folder: str) -> str:
    inner = folder.strip("/")
    if _CONTROL.search(inner) or len(inner.encode(errors="replace")) > 1024:
        raise ValueError(f"{_shown(uri)} has an invalid folder")
    if inner and any(part in ("", ".", "..") for part in inner.split("/")):
        raise ValueError(f"{_shown(uri)} has an empty, . or .. part in its folder")
    return inner


def _check_keys(config: Mapping[str, object]) -> None:
    unknown = sorted(key for key in config if key not in (*SECRET_KEYS, *OPTION_KEYS))
    if unknown:
        allowed = ", ".join((*SECRET_KEYS, *OPTION_KEYS))
        raise ValueError(f"config has unknown keys {_shown(', '.join(unknown))}; the keys are {allowed}")


def _named(key: str, check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"config: {key}: {error}") from None


def _shown(text: str) -> str:
    """Return a text for a message; a user may have put a key and its secret before the bucket."""
    return repr(re.sub(r"://[^@]*:[^@]*@", "://...@", text)[:200])


def _is_source(uri: str) -> str:
    parse_source(uri)
    return uri


SourceUri = Annotated[str, StringConstraints(min_length=1, max_length=4096), AfterValidator(_is_source)]
"""A source as it is written; what `parse_source` understands."""

OutputDir = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^/[^\x00]*$")]
"""An absolute path, the same in the sidecar and in the engine."""

MaxWorkers = Annotated[int, Field(ge=1, le=32)]

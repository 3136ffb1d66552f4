"""The settings of downloads, and the variables that they are read from: credentials under the names of both upstream
runtimes, and where files may go. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from patio.variables import SettingsError
from patio_protocol.downloads import DEFAULT_DOWNLOAD_ROOT, DOWNLOAD_ROOT_VARIABLE, DOWNLOAD_ROOTS_VARIABLE
from patio_protocol.sources import ADDRESSING_STYLES, SourceKind, check_endpoint, check_region, check_revision


@dataclass(frozen=True, slots=True)
class StandardVariables:
    """What the variables say that other programs read too: for S3 alone, and where Patio's own do not."""

    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    endpoint: str | None = None
    region: str | None = None
    """If neither an order nor the endpoint's name has it."""


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
        values = {
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
        return {key: value for key, value in values.items() if value is not None}


VARIABLES = {
    "HF_AUTH_TOKEN": "token for Hugging Face",
    "HF_TOKEN": "the same, as huggingface_hub names it; also HUGGING_FACE_HUB_TOKEN",
    "HUGGING_FACE_HUB_TOKEN": "the same, as huggingface_hub named it first",
    "HF_ENDPOINT": "URL of the Hub, or of a mirror; default https://huggingface.co",
    "HF_REVISION": "branch, tag or commit if a request names none; default main",
    "ACCESS_KEY": "access key for s3:// and obs://; needs SECRET_KEY",
    "SECRET_KEY": "secret key for s3:// and obs://; needs ACCESS_KEY",
    "SESSION_TOKEN": "session token of temporary credentials; needs ACCESS_KEY",
    "ENDPOINT": "endpoint for s3:// and obs://; default AWS",
    "REGION": "region of buckets; default: the region in the endpoint's name",
    "ADDRESSING_STYLE": "how buckets are addressed: path, virtual or auto",
    "AWS_ACCESS_KEY_ID": "access key for s3:// if ACCESS_KEY is not set",
    "AWS_SECRET_ACCESS_KEY": "secret key for s3://; needs AWS_ACCESS_KEY_ID",
    "AWS_SESSION_TOKEN": "session token of temporary credentials; needs AWS_ACCESS_KEY_ID",
    "AWS_ENDPOINT_URL_S3": "endpoint for s3:// if ENDPOINT is not set; takes precedence over AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL": "endpoint for s3:// if ENDPOINT is not set",
    "AWS_REGION": "region of s3:// buckets if nothing else names it; takes precedence over AWS_DEFAULT_REGION",
    "AWS_DEFAULT_REGION": "region of s3:// buckets if nothing else names it",
    DOWNLOAD_ROOT_VARIABLE: f"folder of downloads, shared with the engine; default {DEFAULT_DOWNLOAD_ROOT}",
    DOWNLOAD_ROOTS_VARIABLE: "comma-separated other folders that output_dir, pvc:// and file:// may name",
    "PATIO_DOWNLOAD_LIMIT": "limit of bytes in the folder of downloads, like 20Gi; default: the size of the disk",
    "PATIO_DOWNLOAD_PLAIN_HTTP": "allow or reject credentials for an endpoint without TLS; default reject",
    "PATIO_DOWNLOAD_FILES": "safetensors (and config, tokenizer, ...) or all; default safetensors",
}

_CREDENTIALS = (
    *("HF_AUTH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "ACCESS_KEY", "SECRET_KEY", "SESSION_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def read_downloads(env: Mapping[str, str]) -> DownloadSettings:
    """Return the settings of downloads; raise `SettingsError`, which never has a credential in it."""
    for first, second in (("ACCESS_KEY", "SECRET_KEY"), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")):
        if (first in env) != (second in env):
            present, missing = (first, second) if first in env else (second, first)
            raise SettingsError(f"{present} is set and {missing} is not: set both")
    if "SESSION_TOKEN" in env and "ACCESS_KEY" not in env:
        raise SettingsError("SESSION_TOKEN is set and ACCESS_KEY is not: set both")
    for name in _CREDENTIALS:
        if not re.fullmatch(r"[\x21-\x7e]*", env.get(name, "")):
            raise SettingsError(
                f"{name}: the value has a character that is not allowed, like a line break or the letter é"
            )
    plain = env.get("PATIO_DOWNLOAD_PLAIN_HTTP", "reject")
    if plain not in ("allow", "reject"):
        raise SettingsError(f"PATIO_DOWNLOAD_PLAIN_HTTP: {plain!r} is not one of allow, reject")
    style = env.get("ADDRESSING_STYLE")
    if style is not None and style not in ADDRESSING_STYLES:
        raise SettingsError(f"ADDRESSING_STYLE: {style!r} is not one of {', '.join(ADDRESSING_STYLES)}")
    files = env.get("PATIO_DOWNLOAD_FILES", "safetensors")
    if files not in ("safetensors", "all"):
        raise SettingsError(f"PATIO_DOWNLOAD_FILES: {files!r} is not one of safetensors, all")
    return DownloadSettings(
        root=_folder(DOWNLOAD_ROOT_VARIABLE, env.get(DOWNLOAD_ROOT_VARIABLE, DEFAULT_DOWNLOAD_ROOT)),
        other_roots=tuple(
            _folder(DOWNLOAD_ROOTS_VARIABLE, part.strip())
            for part in env.get(DOWNLOAD_ROOTS_VARIABLE, "").split(",")
            if part.strip()
        ),
        all_files=files == "all",
        limit=_bytes("PATIO_DOWNLOAD_LIMIT", env.get("PATIO_DOWNLOAD_LIMIT")),
        hf_token=_first(env, "HF_AUTH_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"),
        hf_endpoint=_checked("HF_ENDPOINT", check_endpoint, env),
        hf_revision=_checked("HF_REVISION", check_revision, env),
        access_key=env.get("ACCESS_KEY"),
        secret_key=env.get("SECRET_KEY"),
        session_token=env.get("SESSION_TOKEN"),
        endpoint=_checked("ENDPOINT", check_endpoint, env),
        region=_checked("REGION", check_region, env),
        addressing_style=style,
        plain_http=plain == "allow",
        standard=StandardVariables(
            access_key=env.get("AWS_ACCESS_KEY_ID"),
            secret_key=env.get("AWS_SECRET_ACCESS_KEY"),
            session_token=env.get("AWS_SESSION_TOKEN"),
            endpoint=_checked("AWS_ENDPOINT_URL_S3", check_endpoint, env)
            or _checked("AWS_ENDPOINT_URL", check_endpoint, env),
            region=_checked("AWS_REGION", check_region, env) or _checked("AWS_DEFAULT_REGION", check_region, env),
        ),
    )


def _first(env: Mapping[str, str], *names: str) -> str | None:
    """Return what the first of some variables says."""
    return next((env[name] for name in names if name in env), None)


def _folder(variable: str, value: str) -> Path:
    path = Path(value)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise SettingsError(f"{variable}: {value!r} is not the absolute path of a folder below /")
    return path


def _checked(variable: str, check: Callable[[str], str], env: Mapping[str, str]) -> str | None:
    if variable not in env:
        return None
    try:
        return check(env[variable])
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None


def _bytes(variable: str, value: str | None) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,15})([KMGT]i?)?", value)
    if match is None or not int(match.group(1)):
        raise SettingsError(f"{variable}: {value!r} is not a number of bytes like 20Gi")
    return int(match.group(1)) * _UNITS[match.group(2) or ""]

"""What variables say of downloads: credentials under both upstream runtimes' names, and where files may go. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from patio.api.downloads_protocol import DEFAULT_DOWNLOAD_ROOT, DOWNLOAD_ROOT_VARIABLE, DOWNLOAD_ROOTS_VARIABLE
from patio.api.sources import check_endpoint, check_revision
from patio.downloads.config import DownloadSettings
from patio.settings.errors import SettingsError

VARIABLES = {
    "HF_AUTH_TOKEN": "token for Hugging Face",
    "HF_ENDPOINT": "a Hub of one's own, or a mirror; default https://huggingface.co",
    "HF_REVISION": "branch, tag or commit where a request names none; default main",
    "ACCESS_KEY": "access key for s3:// and obs://; SECRET_KEY belongs to it",
    "SECRET_KEY": "secret key for s3:// and obs://",
    "ENDPOINT": "endpoint for s3:// and obs://; default AWS",
    DOWNLOAD_ROOT_VARIABLE: f"folder of downloads, shared with the engine; default {DEFAULT_DOWNLOAD_ROOT}",
    DOWNLOAD_ROOTS_VARIABLE: "other folders, by commas, that output_dir, pvc:// and file:// may name",
    "PATIO_DOWNLOAD_LIMIT": "most bytes under the folder of downloads, like 20Gi; default: what the disk has",
    "PATIO_DOWNLOAD_FILES": "safetensors (and config, tokenizer, ...) or all; default safetensors",
}

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def read_downloads(given: Mapping[str, str]) -> DownloadSettings:
    """Return the settings of downloads; raise `SettingsError`, which never has a credential in it."""
    if ("ACCESS_KEY" in given) != ("SECRET_KEY" in given):
        there, missing = ("ACCESS_KEY", "SECRET_KEY") if "ACCESS_KEY" in given else ("SECRET_KEY", "ACCESS_KEY")
        raise SettingsError(f"{there} is set and {missing} is not: they belong together")
    files = given.get("PATIO_DOWNLOAD_FILES", "safetensors")
    if files not in ("safetensors", "all"):
        raise SettingsError(f"PATIO_DOWNLOAD_FILES: {files!r} is not one of safetensors, all")
    return DownloadSettings(
        root=_folder(DOWNLOAD_ROOT_VARIABLE, given.get(DOWNLOAD_ROOT_VARIABLE, DEFAULT_DOWNLOAD_ROOT)),
        other_roots=tuple(
            _folder(DOWNLOAD_ROOTS_VARIABLE, part.strip())
            for part in given.get(DOWNLOAD_ROOTS_VARIABLE, "").split(",")
            if part.strip()
        ),
        all_files=files == "all",
        limit=_bytes("PATIO_DOWNLOAD_LIMIT", given.get("PATIO_DOWNLOAD_LIMIT")),
        hf_token=given.get("HF_AUTH_TOKEN"),
        hf_endpoint=_checked("HF_ENDPOINT", check_endpoint, given),
        hf_revision=_checked("HF_REVISION", check_revision, given),
        access_key=given.get("ACCESS_KEY"),
        secret_key=given.get("SECRET_KEY"),
        endpoint=_checked("ENDPOINT", check_endpoint, given),
    )


def _folder(variable: str, value: str) -> Path:
    path = Path(value)
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise SettingsError(f"{variable}: {value!r} is not the absolute path of a folder below /")
    return path


def _checked(variable: str, check: Callable[[str], str], given: Mapping[str, str]) -> str | None:
    if variable not in given:
        return None
    try:
        return check(given[variable])
    except ValueError as error:
        raise SettingsError(f"{variable}: {error}") from None


def _bytes(variable: str, value: str | None) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d{1,15})([KMGT]i?)?", value)
    if found is None or not int(found.group(1)):
        raise SettingsError(f"{variable}: {value!r} is not a number of bytes like 20Gi")
    return int(found.group(1)) * _UNITS[found.group(2) or ""]

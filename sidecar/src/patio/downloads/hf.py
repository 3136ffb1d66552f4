"""Hugging Face, through huggingface_hub: the listing with sizes and hashes, files by commit with Range.

The bytes are read with the library's own session and headers, and not with its download functions: those keep their own
temporary files, while here all sources share one way to resume, check and rename.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session  # type: ignore[attr-defined]  # documented, not in __all__

from patio.api.downloads_protocol import DownloadReason
from patio.api.sources import Source
from patio.downloads.backends import CHUNK, CONNECT_SECONDS, READ_SECONDS, Reading
from patio.downloads.faults import DownloadFault, of_status
from patio.downloads.plan import Digest, Listing, RemoteFile

DEFAULT_ENDPOINT = "https://huggingface.co"
_TIMEOUT = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)


class HuggingFace:
    """A folder of a repository, at a revision."""

    def __init__(self, source: Source, config: dict[str, str]) -> None:
        self._repository = source.name
        self._folder = f"{source.path}/" if source.path else ""
        self._revision = source.revision or config.get("hf_revision") or "main"
        self._endpoint = config.get("hf_endpoint", DEFAULT_ENDPOINT)
        # False: a token that lies about in the home folder is nobody's wish.
        self._token: str | bool = config.get("hf_token") or False
        self._what = f"{self._repository}@{self._revision} at {self._endpoint}"
        self._commit = ""

    def listing(self) -> Listing:
        """Ask for the commit behind the revision and its files."""
        api = HfApi(endpoint=self._endpoint, token=self._token)
        with self._faults():
            info = api.model_info(self._repository, revision=self._revision, files_metadata=True, timeout=READ_SECONDS)
        if info.sha is None or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise DownloadFault(DownloadReason.FAULT, f"{self._what}: the answer names no commit.")
        self._commit = info.sha
        files = []
        for sibling in info.siblings or []:
            if not sibling.rfilename.startswith(self._folder):
                continue
            if sibling.size is None:
                raise DownloadFault(DownloadReason.FAULT, f"{self._what}: {sibling.rfilename} has no size.")
            digest = Digest("git", sibling.blob_id) if sibling.blob_id else None
            if sibling.lfs is not None:
                digest = Digest("sha256", sibling.lfs.sha256)
            name = sibling.rfilename.removeprefix(self._folder)
            files.append(RemoteFile(name, sibling.size, digest.value if digest else "", digest))
        return Listing(tuple(files), info.sha)

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        """Ask for a file; redirects to the place of large files are followed, without the token."""
        url = hf_hub_url(self._repository, self._folder + file.name, revision=self._commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token)
        headers["accept-encoding"] = "identity"
        if offset:
            headers["range"] = f"bytes={offset}-"
        with (
            self._faults(),
            get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response,
        ):
            if response.status_code not in (200, 206):
                words = f"{file.name} of {self._what}"
                raise of_status(response.status_code, words, _seconds(response.headers.get("retry-after")))
            begins = offset if response.status_code == 206 else 0
            yield Reading(begins, response.iter_raw(CHUNK), file.digest)

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            # 401 for a repository that does not exist is the Hub's way to say nothing about it.
            fault = of_status(
                error.response.status_code, self._what, _seconds(error.response.headers.get("retry-after"))
            )
            if error.response.headers.get("x-error-code") in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
                words = f"{self._what}: the Hub does not have it, or not for this token."
                fault = DownloadFault(DownloadReason.NOT_FOUND, words)
            raise fault from None
        except HFValidationError as error:
            raise DownloadFault(DownloadReason.INVALID, f"{self._what}: {error}") from None
        except httpx.HTTPError as error:
            words = f"{self._what}: {type(error).__name__}: {error}"
            raise DownloadFault(DownloadReason.UNREACHABLE, words) from None


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None

"""Hugging Face, through huggingface_hub: the listing with sizes and hashes, files by commit with Range.

The bytes are read with the library's own session and headers, and not with its download functions: those keep their own
temporary files, while here all sources share one way to resume, check and rename. Redirects are followed to https only,
or to the host that was asked in clear already, and a few of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import build_hf_headers, get_session, set_client_factory  # type: ignore[attr-defined]  # documented, not in __all__

from patio.downloads.addresses import is_never_asked
from patio.downloads.backends import CONNECT_SECONDS, NETWORK_CHUNK, READ_SECONDS, Reading, begins_at
from patio.downloads.errors import DownloadError, error_of_status, tls_hint
from patio.downloads.planner import Digest, Listing, RemoteFile
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import Source

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

DEFAULT_ENDPOINT = "https://huggingface.co"
MOST_REDIRECTS = 5
_REMEDY = "Set HF_AUTH_TOKEN or HF_TOKEN in the sidecar, or give a Secret with a token"
_TIMEOUT = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)


class HuggingFace:
    """A folder of a repository, at a revision."""

    def __init__(self, source: Source, config: dict[str, str]) -> None:
        self._repository = source.name
        self._folder = f"{source.path}/" if source.path else ""
        self._revision = source.revision or config.get("hf_revision") or "main"
        self._endpoint = config.get("hf_endpoint", DEFAULT_ENDPOINT)
        # False: no token of the home folder is used.
        self._token: str | bool = config.get("hf_token") or False
        self._subject = f"{self._repository}@{self._revision} at {self._endpoint}"
        self._commit = ""
        home = httpx.URL(self._endpoint)

        def client() -> httpx.Client:
            return httpx.Client(
                event_hooks={"request": [lambda request: check_target(home, request.url)]},
                follow_redirects=True,
                max_redirects=MOST_REDIRECTS,
                timeout=_TIMEOUT,
            )

        set_client_factory(client)

    def listing(self) -> Listing:
        """Ask for the commit behind the revision and its files."""
        api = HfApi(endpoint=self._endpoint, token=self._token)
        with self._download_errors(), self._checked_answer():
            info = api.model_info(self._repository, revision=self._revision, files_metadata=True, timeout=READ_SECONDS)
        if info.sha is None or not re.fullmatch(r"[0-9a-f]{40}", info.sha):
            raise DownloadError(DownloadReason.ERROR, f"{self._subject}: the answer names no commit.")
        self._commit = info.sha
        with self._checked_answer():
            siblings = info.siblings or []
            return Listing(
                tuple(self._file(sibling) for sibling in siblings if sibling.rfilename.startswith(self._folder)),
                info.sha,
            )

    def _file(self, sibling: RepoSibling) -> RemoteFile:
        size, blob = sibling.size, sibling.blob_id
        if not isinstance(size, int) or isinstance(size, bool):
            raise DownloadError(DownloadReason.ERROR, f"{self._subject}: {sibling.rfilename[:200]} has no size.")
        digest = None
        if sibling.lfs is not None:
            digest = Digest("sha256", str(sibling.lfs.sha256))
        elif blob:
            digest = Digest("git", str(blob))
        name = sibling.rfilename.removeprefix(self._folder)
        return RemoteFile(name, size, digest.value if digest else "", digest)

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        """Ask for a file; redirects to the place of large files are followed, without the token."""
        url = hf_hub_url(self._repository, self._folder + file.name, revision=self._commit, endpoint=self._endpoint)
        headers = build_hf_headers(token=self._token)
        headers["accept-encoding"] = "identity"
        if offset:
            headers["range"] = f"bytes={offset}-"
        with (
            self._download_errors(),
            get_session().stream("GET", url, headers=headers, timeout=_TIMEOUT, follow_redirects=True) as response,
        ):
            if response.status_code not in (200, 206):
                message = f"{file.name} of {self._subject}"
                retry_after = _seconds(response.headers.get("retry-after"))
                raise error_of_status(response.status_code, message, retry_after, "" if self._token else _REMEDY)
            part = response.headers.get("content-range", "") if response.status_code == 206 else None
            begins = begins_at(part, offset, f"{file.name} of {self._subject}")
            yield Reading(begins, response.iter_raw(NETWORK_CHUNK), file.digest)

    @contextmanager
    def _download_errors(self) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            # 401 for a repository that does not exist is the Hub's way to say nothing about it.
            retry_after = _seconds(error.response.headers.get("retry-after"))
            remedy = "" if self._token else _REMEDY
            download_error = error_of_status(error.response.status_code, self._subject, retry_after, remedy)
            if error.response.headers.get("x-error-code") in ("RepoNotFound", "RevisionNotFound", "EntryNotFound"):
                message = f"{self._subject}: the Hub does not have it, or does not show it to this token."
                download_error = DownloadError(DownloadReason.NOT_FOUND, message)
            raise download_error from None
        except HFValidationError as error:
            raise DownloadError(DownloadReason.INVALID, f"{self._subject}: {error}") from None
        except httpx.TooManyRedirects:
            message = f"{self._subject}: more than {MOST_REDIRECTS} redirects."
            raise DownloadError(DownloadReason.REJECTED, message) from None
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
            # Not in the library's words: they repeat a header, and the token with it.
            message = f"{self._subject}: {type(error).__name__}: the endpoint, the token or a redirect cannot be used."
            raise DownloadError(DownloadReason.INVALID, message) from None
        except httpx.HTTPError as error:
            message = f"{self._subject}: {type(error).__name__}: {error}{tls_hint(str(error))}"
            raise DownloadError(DownloadReason.UNREACHABLE, message) from None

    @contextmanager
    def _checked_answer(self) -> Iterator[None]:
        """Tell of an answer that is not the Hub's."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, HFValidationError):
                raise
            message = f"{self._subject}: the endpoint does not answer like a Hub ({type(error).__name__})."
            raise DownloadError(DownloadReason.ERROR, message) from None


def check_target(home: httpx.URL, url: httpx.URL) -> None:
    """Raise `DownloadError` for a URL, likely a redirect's, that must not be asked."""
    if is_never_asked(url.host):
        message = f"{url.host} is an address of the node or its cloud's metadata. The sidecar never connects to it."
        raise DownloadError(DownloadReason.REJECTED, message)
    if url.scheme != "https" and (url.scheme, url.host) != (home.scheme, home.host):
        message = f"The Hub at {home.host} redirects to {url.scheme}://{url.host}. The sidecar follows only https."
        raise DownloadError(DownloadReason.REJECTED, message)


def _seconds(retry_after: str | None) -> float | None:
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None

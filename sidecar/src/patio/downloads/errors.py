"""Why a download failed, by what comes next. Pure.

Raised by worker and backends, sent to the parent as an event, shown to users.
"""

from __future__ import annotations

from collections.abc import Iterable

from patio_protocol.downloads import DownloadReason

TRANSIENT = frozenset(
    {
        DownloadReason.UNREACHABLE,
        DownloadReason.ERROR,
        DownloadReason.SLOW,
        DownloadReason.BUSY,
        DownloadReason.CHANGED,
        DownloadReason.CORRUPT,
        DownloadReason.INTERRUPTED,
    }
)
"""Worth another attempt at once, after a pause."""
LATER = frozenset({DownloadReason.NO_SPACE, DownloadReason.TOO_MANY, DownloadReason.CANCELLED})
"""A later order may succeed; another attempt by the sidecar itself would not help."""


class DownloadError(Exception):
    """A download that did not succeed. The message is a sentence without secrets."""

    def __init__(self, reason: DownloadReason, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.retry_after = retry_after
        """Seconds that the source asks to be left alone for."""

    @property
    def transient(self) -> bool:
        """Whether another attempt makes sense without anybody doing anything."""
        return self.reason in TRANSIENT

    @property
    def retryable(self) -> bool:
        """Whether asking again for the same can end well."""
        return self.reason in TRANSIENT or self.reason in LATER


def error_of_status(status: int, subject: str, retry_after: float | None = None, remedy: str = "") -> DownloadError:
    """Tell what a source's HTTP status means.

    `subject` says who answered, and to what; `remedy` how to give credentials, if none were sent.
    """
    if status in (401, 403) and remedy:
        message = f"{subject}: the source answered {status} to a request without credentials. {remedy}."
        return DownloadError(DownloadReason.UNAUTHORIZED, message)
    if status == 401:
        message = f"{subject}: the source answered 401. The credentials are missing or wrong."
        return DownloadError(DownloadReason.UNAUTHORIZED, message)
    if status == 403:
        return DownloadError(
            DownloadReason.UNAUTHORIZED, f"{subject}: the source answered 403. These credentials may not read it."
        )
    if status in (404, 410):
        return DownloadError(DownloadReason.NOT_FOUND, f"{subject}: the source answered {status} (not found).")
    if status == 412:
        return DownloadError(DownloadReason.CHANGED, f"{subject}: the file changed while it was read.")
    if status in (408, 425, 429) or status >= 500:
        return DownloadError(
            DownloadReason.ERROR, f"{subject}: the source answered {status}, a temporary error.", retry_after
        )
    return DownloadError(DownloadReason.REJECTED, f"{subject}: the source answered {status}. A retry does not help.")


def tls_hint(error: str) -> str:
    """Return the remedy for an error of TLS, to be put behind it; nothing for others."""
    if "WRONG_VERSION_NUMBER" in error or "wrong version number" in error:
        return "; the endpoint does not speak TLS: if that is intended, begin its URL with http://"
    if "CERTIFICATE_VERIFY_FAILED" in error:
        return "; name your own CA with SSL_CERT_FILE in the sidecar"
    return ""


def plain_http_error(endpoint: str) -> DownloadError:
    """Tell that credentials are not sent where everybody on the way can read them."""
    message = (
        f"{endpoint} has no TLS, and the sidecar does not send credentials in clear. Use https://, or allow plain HTTP "
        "with source.allowPlainHTTP in a LoraAdapter, allow_plain_http in config, or PATIO_DOWNLOAD_PLAIN_HTTP=allow "
        "in the sidecar."
    )
    return DownloadError(DownloadReason.INVALID, message)


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Return a text without the secrets in it."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= 4:
            text = text.replace(secret, "***")
    return text

"""The routes of downloads: take the order, wait for its end if asked to, turn the outcome into a status.

What is fetched, and how, is decided in `downloads`; this module knows only how to say it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from fastapi import FastAPI, Request, Response

from patio.access.openness import EVERYONE, open_to
from patio.downloads.downloads import Downloads
from patio.downloads.errors import DownloadError
from patio.routes.responses import INTERNAL_ERROR, ApiError, answer, within
from patio_protocol.downloads import DownloadList, DownloadReason, DownloadReport, DownloadRequest

DOWNLOAD_STATUS: Mapping[str, int] = {
    DownloadReason.INVALID: 400,
    DownloadReason.NOT_FOUND: 404,
    DownloadReason.CANCELLED: 409,
    DownloadReason.REJECTED: 422,
    DownloadReason.TOO_MANY: 429,
    INTERNAL_ERROR: 500,
    DownloadReason.UNAUTHORIZED: 502,
    DownloadReason.UNREACHABLE: 503,
    DownloadReason.ERROR: 503,
    DownloadReason.SLOW: 503,
    DownloadReason.BUSY: 503,
    DownloadReason.CHANGED: 503,
    DownloadReason.CORRUPT: 503,
    DownloadReason.INTERRUPTED: 503,
    DownloadReason.NO_SPACE: 507,
    DownloadReason.NOT_WRITABLE: 507,
}
"""Status of a download that failed, by reason. A source's 401 is not ours to answer: it would ask for the caller's."""


def add_downloads(app: FastAPI, downloads: Downloads, stopping: asyncio.Event) -> None:
    """Add the routes."""

    @app.post("/v1/download_model", response_model=DownloadReport, responses={202: {"model": DownloadReport}})
    async def download(request: DownloadRequest, call: Request) -> Response:
        """Fetch a folder. 200 once it is there, 202 at once with `async_download`. A second order joins the first."""
        try:
            report = downloads.order(request)
        except DownloadError as error:
            raise _error(error.reason, error.message, error.retryable) from error
        if not request.async_download:
            await within(None, downloads.ended(report.id), stopping, call)
            report = downloads.report(report.id) or report
        if request.async_download or report.finished is None:
            return answer(report, 202)
        if report.error is not None:
            raise _error(report.error.code, report.error.message, report.error.retryable)
        return answer(report, 200)

    @app.get("/v1/downloads")
    @open_to(EVERYONE)
    async def reports() -> DownloadList:
        """List the running downloads and the last ones that ended, the newest first."""
        return DownloadList(downloads=downloads.reports())

    @app.get("/v1/downloads/{download_id}")
    @open_to(EVERYONE)
    async def report(download_id: str) -> DownloadReport:
        """Show one download with its progress."""
        existing = downloads.report(download_id)
        if existing is None:
            raise _unknown(download_id)
        return existing

    @app.delete("/v1/downloads/{download_id}")
    async def cancel(download_id: str) -> DownloadReport:
        """Cancel a download, or remove an ended one from the list. The files on disk stay for the next order."""
        if downloads.has_listeners(download_id):
            message = "An adapter waits for this download. Unload the adapter to cancel it."
            raise ApiError(409, "InUse", message)
        ended = await downloads.cancel(download_id)
        if ended is None:
            raise _unknown(download_id)
        return ended


def _error(code: str, message: str, retryable: bool) -> ApiError:
    return ApiError(DOWNLOAD_STATUS.get(code, 500), code, message, retryable)


def _unknown(download_id: str) -> ApiError:
    return ApiError(404, "NotFound", f"There is no download {download_id[:64]!r}, or it ended long ago.")

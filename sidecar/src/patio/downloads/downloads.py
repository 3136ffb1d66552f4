"""All downloads of the sidecar: takes orders, shares what is asked for twice, runs workers, tells how they stand.

Orders come from the routes and, through the protocol `adapters.fetching.Fetcher`, from the reconciler. A download is a
task with one worker at a time; after a temporary error it tries again, with growing pauses. A folder that another
process writes to is waited for without a worker, and without a turn. Only reports leave this module, and no report has
a credential in it. Whatever a disk does ends no more than the download that needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from patio.downloads.addresses import host_of, in_clear, is_never_asked
from patio.downloads.cache_keys import is_revision, key_of
from patio.downloads.errors import DownloadError, plain_http_error
from patio.downloads.inventory import DiskUsage, disk_usage, sources_under
from patio.downloads.layout import DownloadLayout, layout_of, local_folder
from patio.downloads.locks import is_free
from patio.downloads.metrics import DownloadMetrics
from patio.downloads.pins import Pins, is_there
from patio.downloads.settings import DownloadSettings
from patio.threads import Threads
from patio_protocol.adapters import ErrorDetail
from patio_protocol.backoff import exponential, with_jitter
from patio_protocol.downloads import DownloadReason, DownloadReport, DownloadRequest, DownloadState
from patio_protocol.sources import SECRET_KEYS, Source, SourceKind, parse_source, read_config

if TYPE_CHECKING:
    # What only a download needs is imported by the first one: most sidecars never make any.
    from patio.downloads.messages import Event, Job

log = logging.getLogger(__name__)

WORKERS = 3
"""Downloads at once: a worker is a Python of about 50 MB."""
ATTEMPTS = 5
"""In a row without a byte of progress, before a temporary error ends a download."""
BUSY_ATTEMPTS = 50
"""In a row at a folder, or at the room of a disk, that others were faster to lock."""
CORRUPT_ATTEMPTS = 2
"""For what arrives whole and wrong: likely it is so at the source, and it may be large."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
LONGEST_ASKED_PAUSE = 300.0
MOST_DOWNLOADS = 100
"""Downloads that have not ended, queued ones included, before no more are taken."""
HISTORY = 100
"""Downloads that ended and are still shown."""
FIRST_POLL = 0.25
LONGEST_POLL = 2.0
"""Seconds between polls of a folder that another process writes to."""
LONGEST_WAIT = 3600.0
"""Seconds that such a folder is waited for."""
DISK_RETRY_SECONDS = 10.0
"""Seconds after which a disk that failed is read again."""
MEASURE_SECONDS = 60.0
"""Seconds between measurements of the disk; others write to it as well."""
MEASURE_SHARE = 0.02
"""Most of the time that measuring takes, on a disk where it is slow."""
AT_THE_DISK = 8
"""Calls at once that may hang on a disk, beside those for the folders that engines use."""

KEYS = ("access_key", "secret_key", "session_token")
_ENDED = (DownloadState.SUCCEEDED, DownloadState.FAILED, DownloadState.CANCELLED)


def pause(failures: int, retry_after: float | None, jitter: float) -> float:
    """Return the seconds to wait after so many failures in a row; `asked` is what the source wants at least."""
    own = with_jitter(exponential(FIRST_PAUSE, LONGEST_PAUSE, failures), jitter)
    return max(own, min(retry_after or 0.0, LONGEST_ASKED_PAUSE))


@dataclass(slots=True, eq=False)
class _Download:
    """One download; only `Downloads` writes to it."""

    identity: str
    source: Source
    job: Job | None
    """None: the files are used where they are."""
    report: DownloadReport
    started: float
    """On the monotonic clock."""
    cancelled: bool = False
    """Cancelled, and not yet over: no order joins it any more."""
    task: asyncio.Task[None] | None = None
    fetched_earlier: int = 0
    """By workers that are gone."""
    listeners: int = 0
    """Adapters that wait for it."""
    keep_running: bool = False
    """Ordered by a caller of the API, so it goes on when no adapter wants it any more."""
    ended_event: asyncio.Event = field(default_factory=asyncio.Event)


class Downloads:
    """The downloads of one sidecar."""

    def __init__(
        self,
        settings: DownloadSettings,
        metrics: DownloadMetrics,
        rng: random.Random,
        environ: Mapping[str, str],
        new_id: Callable[[], str],
    ) -> None:
        """`environ`: what workers may see some of; `new_id` names downloads."""
        self._settings = settings
        self._metrics = metrics
        self._rng = rng
        self._environ = environ
        self._new_id = new_id
        self._downloads: dict[str, _Download] = {}
        self._worker_slots = asyncio.Semaphore(WORKERS)
        self._pins = Pins(settings.root)
        self._pinning = asyncio.Lock()
        self._pin_threads = Threads(1, "holds")
        self._disk = Threads(AT_THE_DISK, "disk")
        self._in_use: frozenset[str] | None = None
        self._on_disk: frozenset[str] = frozenset()
        self._disk_changed = asyncio.Event()
        self._measure_soon = asyncio.Event()
        self.disk_usage: DiskUsage | None = None
        """As of the last measurement; None: the root is not there, or cannot be read."""

    async def run(self) -> None:
        """Hold what engines use, and know what is there, until cancelled; then end every worker."""
        measuring = asyncio.create_task(self._measure(), name="measure disk")
        try:
            while True:
                await self._disk_changed.wait()
                self._disk_changed.clear()
                try:
                    await self._sync_disk()
                except OSError as error:  # it may be temporary, and engines serve meanwhile
                    log.error("download disk not read error=%s", error.strerror or error)
                    asyncio.get_running_loop().call_later(DISK_RETRY_SECONDS, self._disk_changed.set)
        finally:
            measuring.cancel()
            for download in self._downloads.values():
                self._cancel(download)
            running = [download.task for download in self._downloads.values() if download.task is not None]
            await asyncio.gather(measuring, *running, return_exceptions=True)
            self._pins.close()

    def order(self, request: DownloadRequest) -> DownloadReport:
        """Start a download, or join the one in progress; raise `DownloadError` for one that can never be."""
        source, config = parse_source(request.source), read_config(request.config)
        download = self._start(source, config, request.output_dir, request.max_workers)
        download.keep_running = True
        return download.report

    async def fetch(
        self, source: Source, config: Mapping[str, str], output_dir: str | None, max_workers: int
    ) -> DownloadReport:
        """Download for an adapter and return how it ended. Cancelled, it ends the download unless others want it."""
        try:
            download = self._start(source, config, output_dir, max_workers)
        except DownloadError as error:
            now = time.time()
            return DownloadReport(
                id=self._new_id(),
                source=str(source),
                state=DownloadState.FAILED,
                error=_detail(error),
                created=now,
                finished=now,
            )
        download.listeners += 1
        try:
            await download.ended_event.wait()
        finally:
            download.listeners -= 1
            if not download.listeners and not download.keep_running:
                self._cancel(download)
        return download.report

    async def ended(self, download_id: str) -> None:
        """Return when a download is over."""
        download = self._downloads.get(download_id)
        if download is not None:
            await download.ended_event.wait()

    def report(self, download_id: str) -> DownloadReport | None:
        """Return how one download stands."""
        download = self._downloads.get(download_id)
        return None if download is None else download.report

    def reports(self) -> tuple[DownloadReport, ...]:
        """Return all that are in progress and the last that ended, the newest first."""
        return tuple(download.report for download in reversed(self._downloads.values()))

    def has_listeners(self, download_id: str) -> bool:
        """Whether an adapter waits for a download."""
        download = self._downloads.get(download_id)
        return download is not None and bool(download.listeners)

    async def cancel(self, download_id: str) -> DownloadReport | None:
        """Stop a download, or strike one that is over off the list; return how it ended."""
        download = self._downloads.get(download_id)
        if download is None:
            return None
        if download.report.state in _ENDED:
            del self._downloads[download_id]
        else:
            self._cancel(download)
            await download.ended_event.wait()
        return download.report

    async def pin(self, folder: str) -> bool:
        """Keep a folder from being removed by anybody; return whether it is there."""
        path = Path(folder)
        if not is_revision(path, self._settings.root):
            # Perhaps on a volume that hangs: the others are not to wait for it.
            return await self._disk.run(is_there, path)
        async with self._pinning:
            return await self._pin_threads.run(self._pins.pin, path)

    def on_disk(self) -> frozenset[str]:
        """Return the sources whose files are under the root, as of the last change that was made from here."""
        return self._on_disk

    def set_in_use(self, folders: Set[str]) -> None:
        """Say which folders are wanted or loaded; others may be removed."""
        in_use = frozenset(folders)
        if in_use != self._in_use:
            self._in_use = in_use
            self._disk_changed.set()

    async def _sync_disk(self) -> None:
        if self._in_use is not None:
            async with self._pinning:
                await self._pin_threads.run(self._pins.sync, [Path(folder) for folder in self._in_use])
        self._on_disk = await self._disk.run(sources_under, self._settings.root)
        self._measure_soon.set()

    async def _measure(self) -> None:
        """Measure the disk now and then, and after each change made from here. A disk that hangs stops only this."""
        settings = self._settings
        while True:
            async with self._pinning:
                held = self._pins.folders
            began = time.monotonic()
            try:
                self.disk_usage = await self._disk.run(disk_usage, settings.root, held, settings.limit)
            except OSError as error:  # there is no thread for it at the moment
                self.disk_usage = None
                log.warning("download disk not measured error=%s", error.strerror or error)
            took = time.monotonic() - began
            await asyncio.sleep(took / MEASURE_SHARE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(MEASURE_SECONDS):
                    await self._measure_soon.wait()
            self._measure_soon.clear()

    def _start(
        self, source: Source, order_config: Mapping[str, str], output_dir: str | None, max_workers: int
    ) -> _Download:
        """Start a download, or return the one in progress for the same; raise `DownloadError`."""
        config = self._config(source, order_config)
        job = self._job(source, config, output_dir, max_workers)
        identity = _identity(source, config, output_dir)
        for download in self._downloads.values():
            if download.identity == identity and download.report.state not in _ENDED and not download.cancelled:
                return download
        if sum(download.report.state not in _ENDED for download in self._downloads.values()) >= MOST_DOWNLOADS:
            message = (
                f"{MOST_DOWNLOADS} downloads are running, which is the limit. Wait for some of them, or cancel them."
            )
            raise DownloadError(DownloadReason.TOO_MANY, message)
        report = DownloadReport(id=self._new_id(), source=str(source), state=DownloadState.QUEUED, created=time.time())
        download = _Download(identity, source, job, report, time.monotonic())
        self._downloads[report.id] = download
        self._prune()
        download.task = asyncio.create_task(self._run(download), name=f"download {report.id}")
        download.task.add_done_callback(lambda task: self._close(download))
        return download

    def _config(self, source: Source, order_config: Mapping[str, str]) -> dict[str, str]:
        """Return what counts for a source: the request's words before the variables', and only what it needs.

        Raise `DownloadError` for an endpoint that must not be asked, or not with these credentials.
        """
        variables = self._settings.config(source.kind)
        if "access_key" in order_config:  # keys come together, and one from here with one from there fits nothing
            variables = {key: value for key, value in variables.items() if key not in KEYS}
        merged = {**variables, **order_config}
        if source.kind is SourceKind.HF:
            needed = ("hf_token", "hf_endpoint") + (() if source.revision else ("hf_revision",))
            if "hf_token" not in order_config and merged.get("hf_endpoint") != variables.get("hf_endpoint"):
                # The variable's token is for the variable's Hub: a request must not have it sent elsewhere.
                merged.pop("hf_token", None)
        elif source.kind in (SourceKind.S3, SourceKind.OBS):
            needed = (*KEYS, "endpoint", "region", "default_region", "addressing_style")
        else:
            needed = ()
        config = {key: merged[key] for key in needed if key in merged}
        endpoint = config.get("endpoint") or config.get("hf_endpoint")
        if endpoint is not None:
            if is_never_asked(host_of(endpoint)):
                message = (
                    f"{endpoint} is an address of the node or its cloud's metadata. The sidecar never connects to it."
                )
                raise DownloadError(DownloadReason.INVALID, message)
            # An order that names an endpoint without TLS, or credentials for one, says whether they may go there.
            orders = any(key in order_config for key in (*SECRET_KEYS, "endpoint", "hf_endpoint"))
            if (order_config if orders else merged).get("allow_plain_http") == "true":
                config["allow_plain_http"] = "true"
            elif in_clear(endpoint) and any(key in config for key in SECRET_KEYS):
                raise plain_http_error(endpoint)
        return config

    def _job(self, source: Source, config: dict[str, str], output_dir: str | None, max_workers: int) -> Job | None:
        """Return what a worker is to do; None when the files are used in place. Raise `DownloadError`."""
        from patio.downloads.messages import Job

        settings = self._settings
        if source.kind in (SourceKind.PVC, SourceKind.FILE) and output_dir is None:
            return None
        key = key_of(source, config.get("hf_endpoint") or config.get("endpoint") or "")
        layout = layout_of(key, output_dir, settings.root, settings.roots)
        return Job(
            source=source,
            config=config,
            revisions=str(layout.revisions),
            shown=None if layout.shown is None else str(layout.shown),
            root=str(settings.root),
            roots=tuple(str(root) for root in settings.roots),
            max_workers=max_workers,
            all_files=settings.all_files,
            limit=settings.limit,
        )

    async def _run(self, download: _Download) -> None:
        log.info("download started id=%s source=%s", download.report.id, download.report.source)
        try:
            await self._attempts(download)
        except DownloadError as error:
            log.warning("download failed id=%s reason=%s message=%s", download.report.id, error.reason, error.message)
            self._end(download, DownloadState.FAILED, _detail(error))
        except Exception:  # the outermost of a download: its waiters must hear of it, whatever it is
            log.exception("download failed unexpectedly id=%s", download.report.id)
            message = "An internal error ended the download. The sidecar's log has the traceback."
            self._end(
                download, DownloadState.FAILED, ErrorDetail(code="InternalError", message=message, retryable=True)
            )
        else:
            report = download.report
            log.info("download done id=%s folder=%s bytes=%d", report.id, report.folder, report.bytes_fetched)

    async def _attempts(self, download: _Download) -> None:
        from patio.downloads.worker_process import run_worker

        if download.job is None:
            roots = self._settings.roots
            folder = await self._disk.run(local_folder, download.source.path, roots)
            self._succeed(download, folder, folder, None)
            return
        failures = busy = 0
        while True:
            await self._wait_for_lock(download, download.job)
            self._change(download, state=DownloadState.QUEUED)
            bytes_before = download.report.bytes_fetched
            try:
                async with self._worker_slots:
                    self._change(download, state=DownloadState.RUNNING, attempts=download.report.attempts + 1)
                    done = await run_worker(download.job, self._environ, lambda event: self._handle(download, event))
            except DownloadError as error:
                self._metrics.count_failure(str(download.source.kind), str(error.reason))
                download.fetched_earlier = download.report.bytes_fetched
                # What arrives broken or drips is no progress, however many bytes it has.
                corrupt = error.reason is DownloadReason.CORRUPT
                progressed = (
                    download.report.bytes_fetched > bytes_before
                    and not corrupt
                    and error.reason is not DownloadReason.SLOW
                )
                if error.reason is DownloadReason.BUSY and busy < BUSY_ATTEMPTS:
                    # Another process was faster; the source is not the cause.
                    busy += 1
                    self._change(download, state=DownloadState.WAITING, message=error.message)
                    await asyncio.sleep(pause(busy, None, self._rng.random()))
                    continue
                failures = 1 if progressed else failures + 1
                if not error.transient or failures >= (CORRUPT_ATTEMPTS if corrupt else ATTEMPTS):
                    raise
                seconds = pause(failures, error.retry_after, self._rng.random())
                log.info(
                    "download retries later id=%s seconds=%.1f message=%s", download.report.id, seconds, error.message
                )
                self._change(download, state=DownloadState.WAITING, error=_detail(error))
                await asyncio.sleep(seconds)
            else:
                self._succeed(download, download.job.shown or done.folder, done.folder, done.revision)
                return

    async def _wait_for_lock(self, download: _Download, job: Job) -> None:
        """Wait until no other process writes to the folder: a worker that waits would take a slot."""
        lock = DownloadLayout(Path(job.revisions)).lock
        deadline = time.monotonic() + LONGEST_WAIT
        seconds = FIRST_POLL
        while not await self._is_free(lock):
            message = f"Waiting for another process that writes to {lock.parent}."
            if time.monotonic() >= deadline:
                raise DownloadError(
                    DownloadReason.BUSY, f"Another process still writes to {lock.parent} after {LONGEST_WAIT:g} s."
                )
            self._change(download, state=DownloadState.WAITING, message=message, error=None)
            await asyncio.sleep(with_jitter(seconds, self._rng.random()))
            seconds = min(LONGEST_POLL, 2 * seconds)

    async def _is_free(self, lock: Path) -> bool:
        try:
            return await self._disk.run(is_free, lock)
        except OSError:
            return True  # the worker finds out what is wrong, and says it

    def _handle(self, download: _Download, event: Event) -> None:
        from patio.downloads.messages import Listed, Moved, Noted

        match event:
            case Noted():
                self._change(download, message=event.message)
            case Listed():
                self._change(
                    download,
                    revision=event.revision,
                    files_total=event.files,
                    bytes_total=event.size,
                    skipped=event.skipped,
                    skipped_total=event.skipped_total,
                    message="Fetching.",
                )
            case Moved():
                fetched = download.fetched_earlier + event.bytes_fetched
                self._metrics.count_bytes(str(download.source.kind), fetched - download.report.bytes_fetched)
                self._change(download, files_done=event.files_done, bytes_done=event.bytes_done, bytes_fetched=fetched)

    def _succeed(self, download: _Download, path: str, folder: str, revision: str | None) -> None:
        self._change(download, path=path, folder=folder, revision=revision, message="", error=None)
        self._end(download, DownloadState.SUCCEEDED, None)

    def _end(self, download: _Download, state: DownloadState, error: ErrorDetail | None) -> None:
        self._change(download, state=state, error=error, finished=time.time())
        # The credentials are no longer needed.
        download.job = None
        seconds = time.monotonic() - download.started
        self._metrics.count_end(str(download.source.kind), str(state), seconds)
        download.ended_event.set()
        self._disk_changed.set()

    def _close(self, download: _Download) -> None:
        """End a download whose task was cancelled, perhaps before it began."""
        if not download.ended_event.is_set():
            log.info("download cancelled id=%s", download.report.id)
            message = "The download was cancelled. A new order continues with the files on disk."
            self._end(download, DownloadState.CANCELLED, _detail(DownloadError(DownloadReason.CANCELLED, message)))

    def _change(self, download: _Download, **changes: object) -> None:
        download.report = download.report.model_copy(update=changes)

    def _cancel(self, download: _Download) -> None:
        # Once only: a second time would break into the end of its worker.
        if download.task is not None and not download.task.done() and not download.cancelled:
            download.cancelled = True
            download.task.cancel()

    def _prune(self) -> None:
        """Strike the oldest off that are over."""
        ended = [download.report.id for download in self._downloads.values() if download.report.state in _ENDED]
        for download_id in ended[: max(0, len(ended) - HISTORY)]:
            del self._downloads[download_id]


def _identity(source: Source, config: Mapping[str, str], output_dir: str | None) -> str:
    """Return what makes two requests the same one. In memory only, and a hash, since credentials are part of it."""
    identity = json.dumps([str(source), sorted(config.items()), output_dir])
    return hashlib.sha256(identity.encode()).hexdigest()


def _detail(error: DownloadError) -> ErrorDetail:
    return ErrorDetail(code=str(error.reason), message=error.message, retryable=error.retryable)

"""One download, from listing to the folder in its place: what the worker does once it has a backend.

Files arrive in `.partial-<revision>`, several at once, each checked before it gets its name; the folder is renamed when
all are there. Whatever breaks off here goes on where it was, by this worker's successor.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from patio.downloads.backends import CHUNK, Backend, Reading
from patio.downloads.cache_keys import is_revision
from patio.downloads.disk import Partial, folders_down_to, remove_unused, replace_text, show
from patio.downloads.errors import DownloadError
from patio.downloads.inventory import noted
from patio.downloads.layout import DownloadLayout, contained, source_note
from patio.downloads.locks import locked
from patio.downloads.messages import Done, Event, Job, Listed, Moved, Noted
from patio.downloads.planner import (
    SYNC_STEP,
    Digest,
    Fetch,
    Listing,
    RemoteFile,
    Selection,
    plan,
    revision_of,
    select,
    space_needed,
)
from patio.downloads.reservations import reserved
from patio.downloads.stall_detection import StallDetector
from patio_protocol.downloads import DownloadReason

EVENT_SECONDS = 0.2
"""Between two events about bytes."""
SKIPPED_SHOWN = 100

Emit = Callable[[Event], None]


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def hexdigest(self) -> str: ...


def download(job: Job, backend: Backend, emit: Emit, stalls: StallDetector | None = None) -> Done:
    """Bring a source's folder to its place and return where it is; raise `DownloadError`.

    A revision that is there whole is used without writing: its folder may be another user's, or read-only.
    """
    stalls = stalls or StallDetector()
    layout = DownloadLayout(Path(job.revisions), Path(job.shown) if job.shown else None)
    with _disk_errors(layout):
        contained(str(layout.revisions), [Path(root) for root in job.roots])
        emit(Noted(message="Listing the files of the source."))
        with stalls.listing():
            listing = backend.listing()
        source = _SourceRevision(job, layout, listing)
        if source.is_complete and layout.shown is None:
            # The note is a hint: it is written where that can be done at once.
            with contextlib.suppress(OSError, DownloadError), locked(layout.lock, 0):
                source.write_note()
            return source.emit_complete(emit)
        folders_down_to(layout.revisions)
        emit(Noted(message="Waiting for another process that writes to the folder."))
        with locked(layout.lock) as waited:
            if waited:
                with stalls.listing():
                    source = _SourceRevision(job, layout, backend.listing())
            return _locked(job, layout, backend, source, emit, stalls)


class _SourceRevision:
    """What a source has, and what of it is taken."""

    def __init__(self, job: Job, layout: DownloadLayout, listing: Listing) -> None:
        self.selection = select(listing, job.all_files)
        self.revision = revision_of(listing, job.all_files)
        self.target = layout.folder(self.revision)
        self._source = str(job.source)

    @property
    def is_complete(self) -> bool:
        """Whether it is there already."""
        return self.target.is_dir() and not self.target.is_symlink()

    def emit_listed(self, emit: Emit) -> None:
        """Say what is about to be fetched."""
        skipped = self.selection.skipped
        emit(
            Listed(
                revision=self.revision,
                files=len(self.selection.files),
                size=self.selection.size,
                skipped=skipped[:SKIPPED_SHOWN],
                skipped_total=len(skipped),
            )
        )

    def emit_complete(self, emit: Emit) -> Done:
        """Say that nothing is to be fetched."""
        self.emit_listed(emit)
        emit(Moved(files_done=len(self.selection.files), bytes_done=self.selection.size, bytes_fetched=0))
        return Done(revision=self.revision, folder=str(self.target))

    def write_note(self) -> None:
        """Write down which source this is a revision of."""
        noted_sources = noted(self.target)
        if self._source not in noted_sources:
            sources = sorted(noted_sources | {self._source})
            replace_text(source_note(self.target), "".join(f"{source}\n" for source in sources))


def _locked(
    job: Job, layout: DownloadLayout, backend: Backend, source: _SourceRevision, emit: Emit, stalls: StallDetector
) -> Done:
    target, revision = source.target, source.revision
    _clean(layout, revision)
    if source.is_complete:
        done = source.emit_complete(emit)
        with contextlib.suppress(OSError):
            source.write_note()
    else:
        source.emit_listed(emit)
        partial = Partial(layout.partial(revision))
        disk = partial.open(source.selection.files)
        fetches = plan(source.selection, disk)
        with reserved(layout, revision, Path(job.root), space_needed(fetches), job.limit):
            _Transfer(partial, backend, source.selection, fetches, emit, stalls).run(job.max_workers)
        partial.finish(target)
        source.write_note()
        done = Done(revision=revision, folder=str(target))
    if layout.shown is not None:
        show(layout, revision)
        for path in layout.revisions.iterdir():
            if is_revision(path, Path(job.root)) and not path.is_symlink() and path != target:
                remove_unused(path, Path(job.root))
    return done


def _clean(layout: DownloadLayout, revision: str) -> None:
    """Remove what no worker will finish: attempts at other revisions, half-removed folders. We hold the lock."""
    for path in layout.revisions.iterdir():
        if path.name.startswith((".partial-", ".trash-")) and path != layout.partial(revision):
            shutil.rmtree(path, ignore_errors=True)


class _Transfer:
    """The files of one revision on their way."""

    def __init__(
        self,
        partial: Partial,
        backend: Backend,
        selection: Selection,
        fetches: tuple[Fetch, ...],
        emit: Emit,
        stalls: StallDetector,
    ) -> None:
        self._partial = partial
        self._backend = backend
        self._fetches = fetches
        self._emit = emit
        self._stalls = stalls
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._files_done = len(selection.files) - len(fetches)
        self._bytes_done = selection.size - space_needed(fetches)
        self._bytes_fetched = 0
        self._last_event_at = 0.0

    def run(self, workers: int) -> None:
        """Fetch all files; the first fault stops them all."""
        self._emit_progress(0.0)
        with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
            running = [pool.submit(self._fetch, fetch) for fetch in self._fetches]
            try:
                ended, _ = wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        self._emit_progress(0.0)
        for future in ended:
            future.result()

    def _fetch(self, fetch: Fetch) -> None:
        file = fetch.file
        part = self._partial.part(file)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "r+b") as opened:
            if file.size:
                with contextlib.ExitStack() as stack:
                    with self._stalls.waiting():
                        reading = stack.enter_context(self._backend.read(file, fetch.offset))
                    actual = self._receive(opened.fileno(), fetch, reading)
                _check(file, reading.digest, actual, part)
            else:
                os.ftruncate(descriptor, 0)
            os.fsync(descriptor)
        self._partial.keep(file)
        self._stalls.file_done()
        with self._lock:
            self._files_done += 1

    def _receive(self, descriptor: int, fetch: Fetch, reading: Reading) -> str | None:
        """Write what arrives; return the hash of the whole file, if there is one to compare it with."""
        size, at = fetch.file.size, reading.offset
        if at != fetch.offset:
            self._count(at - fetch.offset, 0)
        os.ftruncate(descriptor, at)
        hashing = _hashing(reading.digest, size)
        if hashing is not None:
            os.lseek(descriptor, 0, os.SEEK_SET)
            while earlier := os.read(descriptor, CHUNK * 4):
                hashing.update(earlier)
        os.lseek(descriptor, at, os.SEEK_SET)
        synced = at
        for chunk in self._stalls.chunks(reading.chunks):
            if self._stop.is_set():
                raise DownloadError(DownloadReason.CANCELLED, "Another file of the download failed.")
            at += len(chunk)
            if at > size:
                break
            view = memoryview(chunk)
            while view:
                view = view[os.write(descriptor, view) :]
            if hashing is not None:
                hashing.update(chunk)
            self._count(len(chunk), len(chunk))
            if at - synced >= SYNC_STEP:
                os.fdatasync(descriptor)
                synced = at
        if at < size:
            message = f"{fetch.file.name} ended after {at} of {size} bytes."
            raise DownloadError(DownloadReason.UNREACHABLE, message)
        if at > size:
            os.ftruncate(descriptor, 0)
            raise DownloadError(
                DownloadReason.CORRUPT, f"{fetch.file.name} has more bytes than the {size} that the source lists."
            )
        return None if hashing is None else hashing.hexdigest()

    def _count(self, done: int, fetched: int) -> None:
        with self._lock:
            self._bytes_done += done
            self._bytes_fetched += fetched
        self._emit_progress(EVENT_SECONDS)

    def _emit_progress(self, after: float) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._last_event_at < after:
                return
            self._last_event_at = now
            self._emit(
                Moved(files_done=self._files_done, bytes_done=self._bytes_done, bytes_fetched=self._bytes_fetched)
            )


def _hashing(digest: Digest | None, size: int) -> _Hash | None:
    if digest is None:
        return None
    if digest.algorithm == "git":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    return hashlib.new(digest.algorithm, usedforsecurity=False)


def _check(file: RemoteFile, digest: Digest | None, actual: str | None, part: Path) -> None:
    if digest is not None and actual != digest.value:
        part.unlink()
        message = f"{file.name} arrived with the {digest.algorithm} hash {actual}, but the source lists {digest.value}."
        raise DownloadError(DownloadReason.CORRUPT, message)


@contextmanager
def _disk_errors(layout: DownloadLayout) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename or layout.revisions}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(DownloadReason.NO_SPACE, message) from error
        raise DownloadError(DownloadReason.NOT_WRITABLE, message) from error

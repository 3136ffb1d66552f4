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
    place = DownloadLayout(Path(job.revisions), Path(job.shown) if job.shown else None)
    with _disk_faults(place):
        contained(str(place.revisions), [Path(root) for root in job.roots])
        emit(Noted(message="Listing the files of the source."))
        with stalls.listing():
            listing = backend.listing()
        found = _Found(job, place, listing)
        if found.whole and place.shown is None:
            # The note is a hint: it is written where that can be done at once.
            with contextlib.suppress(OSError, DownloadError), locked(place.lock, 0):
                found.note()
            return found.used(emit)
        folders_down_to(place.revisions)
        emit(Noted(message="Waiting for another process that writes to the folder."))
        with locked(place.lock) as waited:
            if waited:
                with stalls.listing():
                    found = _Found(job, place, backend.listing())
            return _locked(job, place, backend, found, emit, stalls)


class _Found:
    """What a source has, and what of it is taken."""

    def __init__(self, job: Job, place: DownloadLayout, listing: Listing) -> None:
        self.selection = select(listing, job.all_files)
        self.revision = revision_of(listing, job.all_files)
        self.target = place.folder(self.revision)
        self._source = str(job.source)

    @property
    def whole(self) -> bool:
        """Whether it is there already."""
        return self.target.is_dir() and not self.target.is_symlink()

    def tell(self, emit: Emit) -> None:
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

    def used(self, emit: Emit) -> Done:
        """Say that nothing is to be fetched."""
        self.tell(emit)
        emit(Moved(files_done=len(self.selection.files), bytes_done=self.selection.size, bytes_fetched=0))
        return Done(revision=self.revision, folder=str(self.target))

    def note(self) -> None:
        """Write down which source this is a revision of."""
        known = noted(self.target)
        if self._source not in known:
            sources = sorted(known | {self._source})
            replace_text(source_note(self.target), "".join(f"{source}\n" for source in sources))


def _locked(
    job: Job, place: DownloadLayout, backend: Backend, found: _Found, emit: Emit, stalls: StallDetector
) -> Done:
    target, revision = found.target, found.revision
    _clean(place, revision)
    if found.whole:
        done = found.used(emit)
        with contextlib.suppress(OSError):
            found.note()
    else:
        found.tell(emit)
        partial = Partial(place.partial(revision))
        disk = partial.open(found.selection.files)
        fetches = plan(found.selection, disk)
        with reserved(place, revision, Path(job.root), space_needed(fetches), job.limit):
            _Transfer(partial, backend, found.selection, fetches, emit, stalls).run(job.max_workers)
        partial.finish(target)
        found.note()
        done = Done(revision=revision, folder=str(target))
    if place.shown is not None:
        show(place, revision)
        for path in place.revisions.iterdir():
            if is_revision(path, Path(job.root)) and not path.is_symlink() and path != target:
                remove_unused(path, Path(job.root))
    return done


def _clean(place: DownloadLayout, revision: str) -> None:
    """Remove what nobody will finish: attempts at other revisions, and half-removed folders. We hold the lock."""
    for path in place.revisions.iterdir():
        if path.name.startswith((".partial-", ".trash-")) and path != place.partial(revision):
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
        self._told = 0.0

    def run(self, workers: int) -> None:
        """Fetch all files; the first fault stops them all."""
        self._tell(0.0)
        with ThreadPoolExecutor(workers, thread_name_prefix="fetch") as pool:
            running = [pool.submit(self._fetch, fetch) for fetch in self._fetches]
            try:
                ended, _ = wait(running, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
        self._tell(0.0)
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
                    got = self._receive(opened.fileno(), fetch, reading)
                _check(file, reading.digest, got, part)
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
            self._moved(at - fetch.offset, 0)
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
            self._moved(len(chunk), len(chunk))
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

    def _moved(self, done: int, fetched: int) -> None:
        with self._lock:
            self._bytes_done += done
            self._bytes_fetched += fetched
        self._tell(EVENT_SECONDS)

    def _tell(self, after: float) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self._told < after:
                return
            self._told = now
            self._emit(
                Moved(files_done=self._files_done, bytes_done=self._bytes_done, bytes_fetched=self._bytes_fetched)
            )


def _hashing(digest: Digest | None, size: int) -> _Hash | None:
    if digest is None:
        return None
    if digest.algorithm == "git":
        return hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    return hashlib.new(digest.algorithm, usedforsecurity=False)


def _check(file: RemoteFile, digest: Digest | None, got: str | None, part: Path) -> None:
    if digest is not None and got != digest.value:
        part.unlink()
        message = f"{file.name} arrived with the {digest.algorithm} hash {got}, but the source lists {digest.value}."
        raise DownloadError(DownloadReason.CORRUPT, message)


@contextmanager
def _disk_faults(place: DownloadLayout) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"{error.filename or place.revisions}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(DownloadReason.NO_SPACE, message) from error
        raise DownloadError(DownloadReason.NOT_WRITABLE, message) from error

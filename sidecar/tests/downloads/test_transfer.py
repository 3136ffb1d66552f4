"""Transfers in this process, over sources that break, lie and mean harm: what is on disk afterwards."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patio.downloads import inventory, local, locks
from patio.downloads.backends import Reading, begins_at
from patio.downloads.disk import remove_unused
from patio.downloads.errors import DownloadError
from patio.downloads.inventory import sources_under
from patio.downloads.layout import DownloadLayout, source_note, users_lock
from patio.downloads.local import Local
from patio.downloads.messages import Done, Event, Job, Listed, Moved
from patio.downloads.pins import Pins
from patio.downloads.planner import SYNC_STEP, Digest, Listing, RemoteFile
from patio.downloads.stall_detection import LEAST_RATE, LISTING_SECONDS, StallDetector
from patio.downloads.transfer import download
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import Source, SourceKind
from patio_testing.sidecar.download_sources import below, content

KEY = "s3-bucket-0123456789ab"


@dataclass
class Memory:
    """A source in memory, which may break off after some bytes."""

    files: dict[str, bytes]
    hashed: bool = True
    patience: int | None = None
    """Bytes given before it breaks off."""
    bytes_given: int = 0
    reads: list[tuple[str, int]] = field(default_factory=list)

    def listing(self) -> Listing:
        return Listing(tuple(self._file(name) for name in self.files))

    @contextmanager
    def read(self, file: RemoteFile, offset: int) -> Iterator[Reading]:
        self.reads.append((file.name, offset))
        yield Reading(offset, self._chunks(file.name, offset), file.digest)

    def _file(self, name: str) -> RemoteFile:
        body = self.files[name]
        tag = hashlib.sha256(body).hexdigest()
        return RemoteFile(name, len(body), tag, Digest("sha256", tag) if self.hashed else None)

    def _chunks(self, name: str, offset: int) -> Iterator[bytes]:
        body = self.files[name]
        for start in range(offset, len(body), 1000):
            chunk = body[start : start + 1000]
            if self.patience is not None:
                if self.patience < len(chunk):
                    raise DownloadError(DownloadReason.UNREACHABLE, "broken off")
                self.patience -= len(chunk)
            self.bytes_given += len(chunk)
            yield chunk


def job(folder: Path, *, output_dir: Path | None = None, workers: int = 3, all_files: bool = False) -> Job:
    root = folder / "root"
    return Job(
        source=Source(SourceKind.S3, "bucket", "x"),
        config={},
        revisions=str(root / KEY if output_dir is None else output_dir / ".patio"),
        shown=None if output_dir is None else str(output_dir),
        root=str(root),
        roots=(str(root), *([] if output_dir is None else [str(output_dir.parent)])),
        max_workers=workers,
        all_files=all_files,
        limit=None,
    )


def run(source: Memory, job: Job) -> tuple[Done, list[Event]]:
    events: list[Event] = []
    return download(job, source, events.append), events


def attempt(source: Memory, job: Job) -> Done | DownloadReason:
    try:
        return run(source, job)[0]
    except DownloadError as fault:
        return fault.reason


def files(folder: str | Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in Path(folder).rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != ".patio"
    }


parts = st.sampled_from(["a", "b", "..", ".", "", ".patio", "etc", "x.safetensors", "c.json", "\x00", "/", "~", "a\\b"])
names = st.lists(parts, min_size=1, max_size=5).map("/".join)


@settings(max_examples=200)
@given(st.dictionaries(names, st.binary(max_size=50), max_size=5), st.booleans(), st.booleans())
def test_any_listing_writes_nothing_outside_its_folder(
    listed: dict[str, bytes], all_files: bool, with_output: bool
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary).resolve() / "deep" / "er"
        folder.mkdir(parents=True)
        output_dir = folder / "models" / "m" if with_output else None
        job_of_listing = job(folder, output_dir=output_dir, all_files=all_files)
        outcome = attempt(Memory(listed), job_of_listing)
        if not isinstance(outcome, Done):
            assert outcome in (DownloadReason.REJECTED, DownloadReason.NOT_FOUND)
            written = {name for name in below(Path(temporary)) if (Path(temporary) / name).is_file()}
            assert {Path(name).name for name in written} <= {".lock"}
        else:
            fetched = files(outcome.folder)
            assert fetched.items() <= listed.items()
            assert fetched == listed or not all_files
            if output_dir is not None:
                assert files(output_dir) == fetched
        top_folders = {Path(name).parts[:3] for name in below(Path(temporary))}
        assert top_folders <= {("deep",), ("deep", "er"), ("deep", "er", "models" if with_output else "root")}


@settings(max_examples=40)
@given(st.lists(st.integers(0, 20_000), max_size=12), st.integers(1, 4), st.booleans(), st.randoms())
def test_download_broken_off_anywhere_completes_rereads_little(
    breaks: list[int], workers: int, hashed: bool, rng: random.Random
) -> None:
    bodies = {f"m{index}.safetensors": content(rng.randrange(20_000), seed=index) for index in range(4)}
    bodies["empty.json"] = b""
    source = Memory(bodies, hashed)
    with tempfile.TemporaryDirectory() as temporary:
        new_job = job(Path(temporary).resolve(), workers=workers)
        revisions = Path(new_job.revisions)
        for patience in breaks:
            source.patience = patience
            outcome = attempt(source, new_job)
            if not isinstance(outcome, Done):
                assert outcome is DownloadReason.UNREACHABLE
                assert not [path for path in revisions.iterdir() if not path.name.startswith(".")]
        source.patience = None
        done, events = run(source, new_job)
        assert files(done.folder) == bodies
        assert not [path for path in revisions.iterdir() if path.name.startswith(".partial")]
        # A chunk that was written and not counted by the source's break, and the byte that is always read again.
        assert source.bytes_given <= sum(map(len, bodies.values())) + (len(breaks) + 1) * workers * 1000
        (listed,) = [event for event in events if isinstance(event, Listed)]
        progress = [event for event in events if isinstance(event, Moved)]
        assert (progress[-1].files_done, progress[-1].bytes_done) == (listed.files, listed.size)


def test_unsynced_parts_are_not_trusted_after_machine_crash(tmp_path: Path) -> None:
    body = content(SYNC_STEP + 5000)
    source = Memory({"m.safetensors": body}, hashed=False, patience=SYNC_STEP + 3000)
    new_job = job(tmp_path)
    with pytest.raises(DownloadError):
        run(source, new_job)
    (partial,) = Path(new_job.revisions).glob(".partial-*")
    (part,) = (partial / "parts").iterdir()
    assert part.stat().st_size > SYNC_STEP
    with part.open("r+b") as part_file:  # as some file systems leave it: the size is there and the bytes are not
        part_file.seek(SYNC_STEP)
        part_file.write(bytes(2000))
    (partial / "boot").write_text("another boot")
    source.patience = None
    done, _ = run(source, new_job)
    assert source.reads[-1] == ("m.safetensors", SYNC_STEP)
    assert files(done.folder) == {"m.safetensors": body}


def test_part_that_is_wrong_is_thrown_away_and_fetched_again(tmp_path: Path) -> None:
    body = content(5000)
    source = Memory({"m.safetensors": body}, patience=3000)
    new_job = job(tmp_path)
    with pytest.raises(DownloadError):
        run(source, new_job)
    (part,) = Path(new_job.revisions).glob(".partial-*/parts/*")
    part.write_bytes(bytes(part.stat().st_size))
    source.patience = None
    with pytest.raises(DownloadError) as corrupt:
        run(source, new_job)
    assert (corrupt.value.reason, corrupt.value.transient) == (DownloadReason.CORRUPT, True)
    done, _ = run(source, new_job)
    assert files(done.folder) == {"m.safetensors": body}


@pytest.mark.parametrize("entry", ["files", "parts", "part"])
def test_links_in_a_half_finished_folder_are_not_followed(tmp_path: Path, entry: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"precious" * 1000)
    source = Memory({"m.safetensors": content(5000)}, patience=3000)
    new_job = job(tmp_path)
    with pytest.raises(DownloadError):
        run(source, new_job)
    (partial,) = Path(new_job.revisions).glob(".partial-*")
    (part,) = (partial / "parts").iterdir()
    part.unlink()
    if entry == "part":
        part.symlink_to(outside / "precious")
    else:
        (partial / entry).rmdir()
        (partial / entry).symlink_to(outside)
    (partial / "boot").write_text("another boot")
    source.patience = None
    with pytest.raises(DownloadError):
        run(source, new_job)
    assert files(outside) == {"precious": b"precious" * 1000}


def test_files_in_use_are_never_removed(tmp_path: Path) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    folder, root = Path(done.folder), tmp_path / "root"
    own, foreign = Pins(root), Pins(root)
    assert own.pin(folder)
    assert foreign.pin(folder)
    assert not remove_unused(folder, root)
    own.close()
    assert not remove_unused(folder, root)
    foreign.sync([])
    assert folder.is_dir(), "nothing newer is in its place"
    assert foreign.pin(folder)
    foreign.close()
    assert remove_unused(folder, root)
    assert not own.pin(folder)
    assert set(below(root / KEY)) == {".lock"}


def test_folders_of_others_are_neither_locked_nor_removed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("org/one", "org/two"):
        (root / name).mkdir(parents=True)
    holds = Pins(root)
    holds.sync([root / "org" / "one"])
    assert holds.pin(root / "org" / "one")
    holds.sync([root / "org" / "two"])
    holds.close()
    assert set(below(root)) == {"org", "org/one", "org/two"}


def test_fetched_revision_is_not_read_again(tmp_path: Path) -> None:
    source = Memory({"m.safetensors": b"x" * 5000})
    first, _ = run(source, job(tmp_path))
    bytes_before = source.bytes_given
    second, _ = run(source, job(tmp_path))
    assert (first, source.bytes_given) == (second, bytes_before)


def test_what_an_output_dir_shows_is_one_link_away(tmp_path: Path) -> None:
    output_dir = tmp_path / "models" / "m"
    done, _ = run(Memory({"a/m.safetensors": b"1"}), job(tmp_path, output_dir=output_dir))
    assert DownloadLayout(output_dir / ".patio", output_dir).folder(done.revision) == Path(done.folder)
    assert os.readlink(output_dir / "a" / "m.safetensors") == "../.patio/current/a/m.safetensors"
    assert os.readlink(output_dir / ".patio" / "current") == done.revision


def test_file_that_becomes_folder_and_back_is_shown(tmp_path: Path) -> None:
    output_dir = tmp_path / "models" / "m"
    for listed in ({"a": b"1"}, {"a/b/c": b"2", "x": b""}, {"a/b": b"3", "x": b""}, {"a": b"4"}):
        run(Memory(listed), job(tmp_path, output_dir=output_dir, all_files=True))
        assert files(output_dir) == listed


def limited(folder: Path, name: str, limit: int) -> Job:
    new_job = job(folder)
    return replace(new_job, revisions=str(folder / "root" / f"s3-{name}-0123456789ab"), limit=limit)


class LoadedWeights(Memory):
    """A source that gives half of a file and waits."""

    half: threading.Event
    rest: threading.Event

    def _chunks(self, name: str, offset: int) -> Iterator[bytes]:
        body = self.files[name]
        yield body[: len(body) // 2]
        self.half.set()
        assert self.rest.wait(30)
        yield body[len(body) // 2 :]


def test_downloads_at_once_do_not_exceed_the_limit(tmp_path: Path) -> None:
    held = LoadedWeights({"m.safetensors": b"x" * 15_000})
    held.half, held.rest = threading.Event(), threading.Event()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, held, limited(tmp_path, "one", 20_000))
        assert held.half.wait(30)
        try:
            second = attempt(Memory({"m.safetensors": b"y" * 15_000}), limited(tmp_path, "two", 20_000))
            small = attempt(Memory({"m.safetensors": b"z" * 4_000}), limited(tmp_path, "three", 20_000))
        finally:
            held.rest.set()
        assert (second, type(small)) == (DownloadReason.NO_SPACE, Done)
        assert first.result(30)[0].revision
    assert list((tmp_path / "root" / ".reserved").iterdir()) == []


def test_reservation_of_a_dead_worker_counts_no_more(tmp_path: Path) -> None:
    reserved = tmp_path / "root" / ".reserved"
    reserved.mkdir(parents=True)
    (reserved / "dead").write_text(json.dumps(["s3-x-0123456789ab/.partial-0123456789abcdef", 10**9]))
    (reserved / "broken").write_text("{")
    assert isinstance(attempt(Memory({"m.safetensors": b"y" * 100}), limited(tmp_path, "two", 20_000)), Done)
    assert list(reserved.iterdir()) == []


def test_thousand_revisions_are_held_by_one_descriptor(tmp_path: Path) -> None:
    folders = [tmp_path / "root" / f"s3-m{number}-0123456789ab" / "0123456789abcdef" for number in range(1000)]
    for folder in folders:
        folder.mkdir(parents=True)
    before = len(os.listdir("/proc/self/fd"))
    holds = Pins(tmp_path / "root")
    assert all(holds.pin(folder) for folder in folders)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    assert not any(remove_unused(folder, tmp_path / "root") for folder in folders)
    holds.close()
    assert remove_unused(folders[500], tmp_path / "root")


def test_folder_that_is_being_removed_is_not_pinned(tmp_path: Path) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    folder, root = Path(done.folder), tmp_path / "root"
    file, place = users_lock(folder, root)
    remover = locks.open_lock(file)
    assert locks.lock_exclusive(remover, place)
    holds = Pins(root)
    assert not holds.pin(folder)
    os.close(remover)
    assert holds.pin(folder)
    holds.close()


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_folder_whose_stat_fails_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    folder = Path(done.folder)
    holds = Pins(tmp_path / "root")

    def failing_stat(path: object, **_: object) -> os.stat_result:
        raise OSError(code, os.strerror(code), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", failing_stat)
        assert not holds.pin(folder)
        holds.sync([folder])
    assert holds.pin(folder)
    holds.close()


def test_lock_is_not_waited_for_without_a_limit(tmp_path: Path) -> None:
    with locks.locked(tmp_path / ".lock"):
        assert not locks.is_free(tmp_path / ".lock")
        with pytest.raises(DownloadError) as raised, locks.locked(tmp_path / ".lock", 0.1):
            pass
    assert raised.value.reason is DownloadReason.BUSY
    assert locks.is_free(tmp_path / ".lock")


@pytest.mark.skipif(os.getuid() != 0, reason="becomes other users")
def test_cache_is_shared_by_several_users(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o777)
    source = Memory({"m.safetensors": b"x" * 5000})

    def as_user(user: int, source_of_user: Memory) -> Done | DownloadReason:
        """Fetch in a process of another user, which can not become root again."""
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.umask(0o022)
                os.setuid(user)
                result = attempt(source_of_user, job(tmp_path))
                os.write(write_end, (result.folder if isinstance(result, Done) else str(result)).encode())
            os._exit(0)
        os.close(write_end)
        result_text = os.read(read_end, 4096).decode()
        os.close(read_end)
        os.waitpid(child, 0)
        return Done(revision="", folder=result_text) if result_text.startswith("/") else DownloadReason(result_text)

    source.patience = 3000
    assert as_user(65532, source) is DownloadReason.UNREACHABLE
    source.patience = None
    first = as_user(2000, source)
    assert isinstance(first, Done), "another user goes on with what was begun"
    assert as_user(3000, source) == first, "and a third one uses it"
    second = as_user(3000, Memory({"m.safetensors": b"new"}))
    assert isinstance(second, Done), "or fetches the next"
    Path(first.folder).parent.chmod(0o555)
    (Path(first.folder).parent / ".lock").chmod(0)
    assert as_user(4000, source) == first, "what is whole is used without writing"


def test_worker_whose_source_drips_is_found_out() -> None:
    pace = StallDetector()
    assert [pace.tick(60.0) for _ in range(5)] == [None] * 5, "nobody waits for a source"
    with pace.waiting():
        assert pace.tick(119.0) is None
        assert "sent 0 bytes" in str(pace.tick(1.0))
        assert list(pace.chunks([b"x" * LEAST_RATE * 120])) == [b"x" * LEAST_RATE * 120]
        assert pace.tick(120.0) is None
        for _ in range(30):
            pace.file_done()
        assert pace.tick(120.0) is None, "many small files are no drip"
    with pace.listing():
        assert pace.tick(LISTING_SECONDS - 1) is None
        assert "did not list" in str(pace.tick(1.0))


def test_another_part_than_was_requested_is_rejected() -> None:
    assert begins_at(None, 500, "x") == 0
    assert begins_at("bytes 500-999/1000", 500, "x") == 500
    for content_range in ("bytes 5000-9999/10000", "bytes 0-999/1000", ""):
        with pytest.raises(DownloadError):
            begins_at(content_range, 500, "x")


def test_lock_of_an_older_sidecar_is_respected(tmp_path: Path) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    folder, root = Path(done.folder), tmp_path / "root"
    lock = folder.with_name(f".{folder.name}.lock")
    with lock.open("w") as lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_SH)
        assert not remove_unused(folder, root)
    assert remove_unused(folder, root)
    assert not lock.exists()


def test_pipe_in_the_place_of_a_note_delays_nothing(tmp_path: Path) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    note = source_note(Path(done.folder))
    note.unlink()
    os.mkfifo(note)
    assert sources_under(tmp_path / "root") == frozenset()
    os.mkfifo(tmp_path / "root" / ".reserved" / "odd")
    assert isinstance(attempt(Memory({"m.safetensors": b"y"}), job(tmp_path)), Done)


def test_sources_on_disk_are_reported_up_to_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, _ = run(Memory({"m.safetensors": b"x"}), job(tmp_path))
    source_note(Path(done.folder)).write_text("".join(f"s3://bucket/{number}\n" for number in range(50)))
    assert len(sources_under(tmp_path / "root")) == 50
    monkeypatch.setattr(inventory, "MOST_SOURCES", 10)
    assert len(sources_under(tmp_path / "root")) == 10


def test_folder_of_too_many_files_is_not_walked_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "MOST_FILES", 3)
    for number in range(6):
        (tmp_path / f"{number}.json").touch()
    with pytest.raises(DownloadError) as raised:
        Local(str(tmp_path), (tmp_path,)).listing()
    assert raised.value.reason is DownloadReason.REJECTED

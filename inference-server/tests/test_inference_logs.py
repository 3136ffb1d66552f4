"""Log files that are followed while an engine writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_server.logs import BACKUPS, KEPT_LINES, MAX_LINE, MAX_READ, LogFollower, keep_previous, rotate


def test_lines_come_once_from_both_files(tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    follower = LogFollower([out, errors])
    assert follower.read() == []
    out.write_bytes(b"one\ntw")
    errors.write_bytes(b" 10%\r 20%\r")
    assert follower.read() == ["one", " 10%", " 20%"]
    assert follower.lines()[-1] == "tw"
    with out.open("ab") as file:
        file.write(b"o\n\xff\n")
    assert follower.read() == ["two", "\ufffd"]
    assert follower.count == 5
    assert follower.tail(2) == "two\n\ufffd"


def test_memory_is_bounded_in_lines_and_length(tmp_path: Path) -> None:
    out = tmp_path / "out"
    follower = LogFollower([out])
    out.write_text("x" * (MAX_LINE + 1) + "\n" + "y\n" * (KEPT_LINES + 5) + "z" * (MAX_LINE + 1))
    assert len(follower.read()[0]) == MAX_LINE
    assert len(follower.lines()) == KEPT_LINES + 1
    assert len(follower.lines()[-1]) == MAX_LINE


def test_empty_log_does_not_replace_the_previous_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    keep_previous(log)
    log.write_text("first")
    keep_previous(log)
    log.write_text("")
    keep_previous(log)
    assert (tmp_path / "log.1").read_text() == "first"


def test_oldest_of_the_previous_logs_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "log"
    for run in range(BACKUPS + 2):
        log.write_text(str(run))
        keep_previous(log)
    kept = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert kept == {"log.1": "4", "log.2": "3", "log.3": "2"}


def test_large_log_is_emptied_while_it_is_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    follower = LogFollower([log])
    with log.open("ab", buffering=0) as engine:
        engine.write(b"first\nsecond\n")
        assert follower.read() == ["first", "second"]
        assert not rotate(log, 100)
        assert rotate(log, 5)
        engine.write(b"third\n")
        assert log.read_bytes() == b"third\n"
        assert follower.read() == ["third"]
    assert (tmp_path / "log.1").read_text() == "first\nsecond\n"
    assert follower.lines() == ["first", "second", "third"]


@pytest.mark.parametrize("limit", [0, -1])
def test_log_without_a_limit_is_not_rotated(tmp_path: Path, limit: int) -> None:
    (tmp_path / "log").write_text("text")
    assert not rotate(tmp_path / "log", limit)
    assert not rotate(tmp_path / "missing", 1)


def test_rotation_that_fails_leaves_the_logs_as_they_are(tmp_path: Path) -> None:
    log, older, oldest = tmp_path / "log", tmp_path / "log.1", tmp_path / "log.2"
    log.write_text("text")
    older.write_text("older")
    oldest.mkdir()
    (oldest / "file").touch()
    (tmp_path / "log.3").write_text("in the way of a directory")
    assert not rotate(log, 1)
    assert (log.read_text(), older.read_text()) == ("text", "older")


def test_copy_that_fails_leaves_the_log_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    log.write_text("text")

    def fill_the_disk(source: str, target: str) -> None:
        Path(target).write_text("te")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", fill_the_disk)
    assert not rotate(log, 1)
    assert log.read_text() == "text"
    assert list(tmp_path.iterdir()) == [log]


def test_reader_that_comes_late_has_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old line\n" * (MAX_READ // 9) + b"the end\n" * 100)
    follower = LogFollower([log])
    assert follower.read()[-1] == "the end"
    assert follower.read() == []

"""Log files that are followed while an engine writes them."""

from __future__ import annotations

from pathlib import Path

from inference_server.logs import KEPT_LINES, MAX_LINE, LogFollower, keep_previous


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

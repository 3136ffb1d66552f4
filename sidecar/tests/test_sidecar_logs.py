"""A fact is a line, whatever words are in it."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.logs import LONGEST_FIELD, LineLimit, _Json, _Text, configure, quoted


@pytest.mark.parametrize("as_json", [False, True])
def test_engine_message_never_makes_a_second_line(as_json: bool, capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        configure("INFO", as_json)
        logging.getLogger("patio.test").info("adapter not loaded message=%s", "first\r\n2026 CRITICAL second")
        try:
            raise ValueError("broken")
        except ValueError:
            logging.getLogger("patio.test").exception("sidecar failed")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    lines = capsys.readouterr().err.splitlines()
    assert "first" in lines[0]
    assert "second" in lines[0]
    if as_json:
        assert json.loads(lines[0])["message"] == "adapter not loaded message=first\r\n2026 CRITICAL second"
        assert "ValueError: broken" in json.loads(lines[1])["exception"]
    else:
        assert lines[-1] == "ValueError: broken"


def text(form: str, *values: object) -> str:
    return _Text("%(message)s").format(logging.LogRecord("a", logging.INFO, "", 0, form, values, None))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain/path.1:2", "plain/path.1:2"),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ("", '""'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("esc\x1b[2Jape", '"esc\\x1b[2Jape"'),
        ("csi\x9b2J", '"csi\\x9b2J"'),
        ("line\u2028end", '"line\\u2028end"'),
        (None, "None"),
    ],
)
def test_field_is_quoted_where_it_could_be_two(value: object, expected: str) -> None:
    assert text("did it path=%s end=%d", value, 1) == f"did it path={expected} end=1"
    assert quoted(value) == expected


def test_text_that_is_no_field_is_not_quoted() -> None:
    assert text("%s", "a sentence of ours") == "a sentence of ours"
    assert text("100%% of %s x=%5.1f y=%r", "all of it", 1.25, "a b") == "all of it".join(
        ("100% of ", ' x=  1.2 y="a b"')
    )
    assert text("nothing to fill in, 100%") == "nothing to fill in, 100%"


@given(st.lists(st.text(), min_size=1, max_size=3))
def test_any_text_stays_in_its_field_and_line(fields: list[str]) -> None:
    line = text("said " + " ".join(f"k{number}=%s" for number in range(len(fields))), *fields)
    assert len(line.splitlines()) == 1
    assert line.isprintable() or not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    rest = line.removeprefix("said")
    for number, field in enumerate(fields):
        rest = rest.removeprefix(f" k{number}=")
        value = quoted(field)
        assert rest.startswith(value)
        rest = rest.removeprefix(value)
    assert rest == ""


def test_long_fields_are_cut_in_text_and_long_lines_in_json() -> None:
    assert len(text("x message=%s", "y" * 5_000_000)) <= LONGEST_FIELD + 20
    record = logging.LogRecord("a", logging.INFO, "", 0, "x message=%s", ("y" * 5_000_000,), None)
    assert len(_Json().format(record)) < 10_000


@given(st.text())
def test_any_text_stays_in_one_line_of_json(field: str) -> None:
    line = _Json().format(logging.LogRecord("a", logging.INFO, "", 0, "x message=%s", (field,), None))
    assert len(line.splitlines()) == 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in line)
    assert json.loads(line)["message"] == f"x message={field}"


def test_lines_beyond_the_limit_are_counted() -> None:
    now = 0.0
    limit = LineLimit(2, 10.0, lambda: now)
    assert [limit.take() for _ in range(5)] == [0, 0, None, None, None]
    now = 10.0
    assert [limit.take(), limit.take(), limit.take()] == [3, 0, None]

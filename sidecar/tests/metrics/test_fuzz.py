"""A few thousand of the texts that `make fuzz` tries, and that breaking the rewriting breaks a law."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.fuzz import Counted, broken_law, cases, inputs
from patio.metrics.rewrite import Format


def test_no_hostile_text_breaks_a_law() -> None:
    counted = Counted()
    for number, text, case in inputs(3000, seed=1):
        assert broken_law(text, case, counted) is None, f"input {number}: {text!r}"
    assert counted.parsed > counted.texts / 4, "most texts being invalid, little was tried"


def test_same_seed_makes_the_same_texts() -> None:
    assert [text for _, text, _ in inputs(50, seed=7)] == [text for _, text, _ in inputs(50, seed=7)]
    assert [text for _, text, _ in inputs(50, seed=7)] != [text for _, text, _ in inputs(50, seed=8)]


def test_laws_are_broken_by_what_breaks_them() -> None:
    case = next(case for case in cases() if case.rules.form is Format.TEXT and case.engine == "vllm")
    text = b'# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running{a="b"} 4\n'
    assert broken_law(text, case, Counted()) is None
    # Rules that rename one family to another's name, that write a broken label, that do not know their own names.
    (row,) = [row for row in case.rules.rows if row.begins == b"\npatio:num_requests_running"]
    for rows, brace, message in (
        ((row, row), case.rules.brace, "a header is there twice"),
        ((replace(row, begins=b"\npatio:num_requests_waiting"),), case.rules.brace, "did not give"),
        ((row,), b"{broken,", "cannot"),
    ):
        broken_case = replace(case, rules=replace(case.rules, rows=rows, brace=brace))
        assert message in (broken_law(text, broken_case, Counted()) or "")

"""The texts that users meet are in one file, which is read as a whole."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import user_texts

ROOT = Path(__file__).parents[2]
TEXTS = (ROOT / user_texts.FILE).read_text()


def test_texts_are_those_of_the_code() -> None:
    assert user_texts.collected(ROOT) == TEXTS, "run `make texts`, and read the difference"


@pytest.mark.parametrize(
    ("source", "texts"),
    [
        ("'''A docstring of words.'''", []),
        ("x = 1\n'''What x is, in words.'''", []),
        ("raise E(f'No pod {name!r} is there')", ["No pod {name} is there"]),
        ("log.info('done in %s s',\n  x)", ["done in %s s"]),
        ("say('one ' 'two  three')", ["one two three"]),
        ("R = 'NotReady'", ["NotReady"]),
        ("R = 'ready'", []),
        ("P = re.compile(r'^[a-z]+ \\d')", []),
    ],
)
def test_literals_of_more_words_and_reasons_are_texts(source: str, texts: list[str]) -> None:
    assert list(user_texts.texts(ast.parse(source))) == texts

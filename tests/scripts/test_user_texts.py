"""The texts that users meet are one file that somebody has read, and neither they nor names have private words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import user_texts

ROOT = Path(__file__).parents[2]
TEXTS = (ROOT / user_texts.FILE).read_text()

PRIVATE_PHRASES = (
    *(r"\banew\b", r"\bby hand\b", r"\bfor good\b", r"\bwhoever\b", r"\bsomebody\b", r"\bnobody\b", r"\bcan not\b"),
    *(r"\b(is|was|were|are) told\b", r"\bcomes? up\b", r"as declared now", r"letting go", r"on its way out"),
    *(r"takes? the place", r"without a word", r"ca(me|n come) to nothing", r"(is|are|was) no (JSON|object|list|string)"),
)
PRIVATE_MODULES = frozenset(
    "watched known fresh kinds kept_secret trial jobs pauses spots rooms placing spreading obstacles marks admitted"
    " clashes deletion words plans asked observed signs residue memory supported users rolled lookups keeper orders"
    " signed board looks situation holds found places child faults memberships parts own notices lean answers".split()
)
PRIVATE_CLASSES = frozenset(
    "Watched Known KnownPod KnownAdapter FreshReads Jobs Seen Spot Host Terms Rooms Choice Mark Marks Hold Release Placed"
    " PlacedState Trouble Verdict Memory User Left Orders Refusal Board Looks EngineLooks Situation Prints Holds Place"
    " Fault Denial Clash".split()
)


def test_texts_are_those_of_the_code() -> None:
    assert user_texts.collected(ROOT) == TEXTS, "run `make texts`, and read the difference"


@pytest.mark.parametrize("phrase", PRIVATE_PHRASES)
def test_texts_have_no_private_phrase(phrase: str) -> None:
    found = [line for line in TEXTS.splitlines() if re.search(phrase, line, re.IGNORECASE)]
    assert not found, f"say it in the field's words: {found}"


def test_modules_have_the_fields_names() -> None:
    assert not [path for path in user_texts.modules(ROOT) if path.stem in PRIVATE_MODULES]


def test_classes_have_the_fields_names() -> None:
    assert not [(str(path.relative_to(ROOT)), name) for path, name in classes() if name in PRIVATE_CLASSES]


def classes() -> Iterator[tuple[Path, str]]:
    """Yield each class of the products."""
    for path in user_texts.modules(ROOT):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node.name


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

"""The texts that users meet are in one file, which is read as a whole, and they use the field's words."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Set
from pathlib import Path

import pytest

from scripts import user_texts

from .test_layout import tracked

ROOT = Path(__file__).parents[2]
TEXTS = (ROOT / user_texts.FILE).read_text()

PACKAGES = ("api", "gateway", "inference-server", "kube", "operator", "protocol", "sidecar")
"""Whose texts and names have no private words."""

PRIVATE_PHRASES = (
    *(r"\banew\b", r"\bby hand\b", r"\bfor good\b", r"\bwhoever\b", r"\bsomebody\b", r"\bnobody\b", r"\bcan not\b"),
    *(r"\b(is|was|were|are|been|being) told\b", r"\bcomes? up\b", r"as declared now", r"letting go", r"lets? go of"),
    *(r"on its way out", r"takes? the place", r"without a word", r"ca(me|n come) to nothing", r"of its own\b"),
    *(r"(is|are|was) no (JSON|object|list|string|text|name|role)", r"\bis none\b", r"\bunder way\b", r"\bbroke\b"),
    *(r"\b(?<!connection is )(?<!connection )refused?\b", r"any more\b", r"told (yet|once)", r"\ba fault\b"),
    *(r"(has|have) it as it is", r"would both be", r"what answers there", r"the source before"),
    *(r"\b(error|fault)s? that (may )?pass(es)?\b", r"\bstood still\b", r"\bon (its|their) way\b", r"\bis not there\b"),
    *(r"\bare the .* there\?", r"\bgoes? on with\b", r"\b(is|are) more than \S+ characters$", r"\bmade of the group\b"),
    *(r"\bthe answer is not an? ", r"\bno answer in \{"),
)
PRIVATE_IN_PROSE = (
    *(r"\banew\b", r"\bby hand\b", r"\bfor good\b", r"\bwhoever\b", r"\bsomebody\b", r"\bnobody\b", r"\bto mend\b"),
    *(r"\b(is|was|were|are|been|being) told (what|to|that|of)\b", r"\bcomes? up\b", r"as declared now", r"letting go"),
    *(
        r"on (its|their) way out",
        r"\b(error|fault)s? that (may )?pass(es)?\b",
        r"\bstands? still\b",
        r"\brefuses\b(?! the con)",
    ),
    *(r"without a word", r"came to nothing", r"\bso many of them\b", r"\bsays `[A-Z]\w+`, and\b"),
)
"""What guides, runbooks, and the pages and comments of the chart must not say."""
PROSE = ("README.md", "docs/*.md", "docs/[!d]*/*.md", "charts/patio/README.md", "charts/patio/values.schema.json")
GONE_REASONS = (
    *("OldSource", "MakingRoom", "AsDeclared", "LeftLoaded", "SomeLeft", "AllCurrent", "Ordered", "Settled", "Tried"),
    *("NotTried", "NotAsAsked", "FinalizerRefused", "ServiceRefused", "SidecarRefused", "Refused"),
)

EMPTY_NAMES = frozenset(
    (
        *("one", "said", "says", "told", "asked", "given", "there", "who", "goes", "gone", "ours", "theirs"),
        *("away", "way", "many"),
    )
)
"""Tell nothing of what they name: no Python file has a variable, parameter, attribute or function of this name."""
PRIVATE_NAMES = EMPTY_NAMES | frozenset(
    (
        *("words", "known", "here", "mine", "was", "shall", "again", "again_at", "again_in", "due", "dues", "waits"),
        *("times", "verdict", "fault", "faults", "trouble", "troubles", "refused", "memories"),
    )
)
"""The packages have none with these names either."""
PRIVATE_CLASSES = frozenset(
    (
        *("Watched", "Known", "KnownPod", "KnownAdapter", "FreshReads", "Jobs", "Seen", "Spot", "Host"),
        *("Terms", "Rooms", "Choice", "Mark", "Marks", "Hold", "Release", "Placed", "PlacedState", "Trouble"),
        *("Verdict", "Memory", "User", "Left", "Orders", "Refusal", "Refused", "Unreachable", "Board", "Looks"),
        *("EngineLooks", "Situation", "Prints", "Holds", "Place", "Fault", "Denial", "Clash"),
    )
)
SHELL = ("operator/src/patio_operator/injection/", "inference-server/src/")
"""Where command lines are read and made: words are those of a shell."""


def test_texts_are_those_of_the_code() -> None:
    assert user_texts.collected(ROOT) == TEXTS, "run `make texts`, and read the difference"


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("phrase", PRIVATE_PHRASES)
def test_texts_have_no_private_phrase(package: str, phrase: str) -> None:
    found = [line for line in texts_of(package) if re.search(phrase, line, re.IGNORECASE)]
    assert not found, f"say it in the field's words: {found}"


@pytest.mark.parametrize("phrase", PRIVATE_IN_PROSE)
def test_guides_have_no_private_phrase(phrase: str) -> None:
    pages = [page for pattern in PROSE for page in ROOT.glob(pattern)]
    found = [
        f"{page.relative_to(ROOT)}: {match[0]}"
        for page in pages
        for match in re.finditer(rf".*(?:{phrase}).*", page.read_text(), re.IGNORECASE)
    ]
    assert not found, f"say it in the field's words: {found}"


@pytest.mark.parametrize("package", PACKAGES)
def test_reasons_that_are_gone_stay_away(package: str) -> None:
    assert not set(GONE_REASONS).intersection(texts_of(package))


def texts_of(package: str) -> list[str]:
    """Return the texts of one package's modules."""
    parts = TEXTS.split("\n\n")
    return [line for part in parts if part.startswith(f"## {package}/") for line in part.splitlines()[1:]]


@pytest.mark.parametrize(
    "package",
    [
        "api/src",
        "gateway/src",
        "inference-server/src",
        "operator/src",
        "kube/src",
        "protocol/src",
        "sidecar/src",
        "observability/src",
        "scripts",
    ],
)
def test_names_are_the_fields_own(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, name in private_names(ast.parse(path.read_text()))
        if not (name == "words" and str(path.relative_to(ROOT)).startswith(SHELL))
    ]
    assert not found, f"name it by what it holds: {found}"


def test_names_in_all_python_files_say_what_they_hold() -> None:
    paths = tracked("**/*.py")
    assert len(paths) > 500
    found = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in paths
        for line, name in private_names(ast.parse(path.read_text()), EMPTY_NAMES, frozenset())
    ]
    assert not found, f"name it by what it holds: {found}"


def private_names(
    tree: ast.Module, names: Set[str] = PRIVATE_NAMES, classes: Set[str] = PRIVATE_CLASSES
) -> Iterator[tuple[int, str]]:
    """Yield line and name of each variable, parameter, attribute, function and class with a private word for a name."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                private = names
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                private = names
            case ast.ClassDef(name=name):
                private = classes
            case ast.ExceptHandler(name=str(name)) | ast.alias(asname=str(name)):
                private = names
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                private = names
            case _:
                continue
        if name.lstrip("_") in private:
            yield node.lineno, name


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("words = 1", ["words"]),
        ("for one in a: pass", ["one"]),
        ("def f(mine, *, _told): self._known = mine", ["mine", "_told", "_known"]),
        ("class Fault: was: int", ["Fault", "was"]),
        ("try: pass\nexcept E as refused: pass", ["refused"]),
        ("[there for there in a if (goes := b)]", ["there", "goes"]),
        ("with a as told: lambda who: who", ["told", "who"]),
        ("match a:\n  case [b, *ours]: pass\n  case B() as theirs: pass", ["ours", "theirs"]),
        ("import a as given", ["given"]),
        ("f(known=words)", []),
    ],
)
def test_private_names_are_found_where_they_are_given(source: str, names: list[str]) -> None:
    assert sorted(name for _, name in private_names(ast.parse(source))) == sorted(names)


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

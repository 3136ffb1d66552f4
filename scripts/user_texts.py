"""Every text that a user of Patio can meet, in one file that is read as a whole: `make texts`.

Status messages, reasons, events, log lines, errors, metric HELP texts, option help and field descriptions are string
literals of the products' modules. This takes all of them that have more than one word, and all CamelCase reasons, from
the syntax trees, so that no call can be forgotten. `{...}` stands for a value. Docstrings are left out, except those of
routes and models, which the OpenAPI document and the CRDs show: these come from the generated files.

`tests/scripts/test_user_texts.py` compares the file with the code, and looks for words that no text may have.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocol/src", "api/src", "kube/src", "sidecar/src", "operator/src", "gateway/src", "inference-server/src")
FILE = Path("tests/scripts/user_texts.txt")

_SENTENCE = re.compile(r"[A-Za-z{}'`,.:;()-]+(\s+\S+)+", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_REASON = re.compile(r"(?:[A-Z][a-z]+){2,}")
_CODE = re.compile(r"^[a-z_]+ = |^\s*$|\\[bdsw]|^\^|^(GET|POST|PUT|DELETE) /\S*$")


def main() -> int:
    """Write the file, or check that it is as the code says."""
    parser = argparse.ArgumentParser(description="Collect the texts that users can meet.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if the file is old")
    arguments = parser.parse_args()
    text = collected(ROOT)
    path = ROOT / FILE
    if not arguments.check:
        path.write_text(text)
        return 0
    if not path.exists() or path.read_text() != text:
        print(
            f"{FILE} is not what the code says: run `make texts`, read the difference, and commit it.", file=sys.stderr
        )
        return 1
    return 0


def collected(root: Path) -> str:
    """Return the whole file: a heading for each module that has texts, then its texts, one a line, in their order."""
    parts = []
    for path in modules(root):
        found = list(dict.fromkeys(texts(ast.parse(path.read_text()))))
        if found:
            parts.append("\n".join((f"## {path.relative_to(root)}", *found)))
    return "\n\n".join(parts) + "\n"


def modules(root: Path) -> list[Path]:
    """Return the products' modules, sorted."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield the texts of a module: literals that are sentences or reasons, each on one line."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, documented):
            # Docstrings, and the strings below constants and fields that document them.
            skipped |= {each.value for each in node.body if isinstance(each, ast.Expr)}
        if isinstance(node, ast.JoinedStr):
            skipped |= set(node.values)
    for node in _in_order(tree):
        if node in skipped:
            continue
        text, form = _text(node), _text(node, with_values=False)
        if text is None or form is None:
            continue
        text, form = (_CONTROL.sub(_escaped, " ".join(part.split())) for part in (text, form))
        if _REASON.fullmatch(text) or (_SENTENCE.fullmatch(form) and not _CODE.search(form)):
            yield text


def _in_order(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk as one reads, so that a text stands where its module has it."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if isinstance(tree, ast.JoinedStr):
            continue
        yield from _in_order(child)


def _text(node: ast.AST, *, with_values: bool = True) -> str | None:
    """Return a literal's text, with `{value}` (or `{}`) for what is put in; None for other nodes."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(each.value)
            if isinstance(each, ast.Constant)
            else "{" + (ast.unparse(each.value) if with_values else "") + "}"
            for each in node.values
            if isinstance(each, ast.Constant | ast.FormattedValue)
        )
    return None


def _escaped(found: re.Match[str]) -> str:
    return repr(found.group())[1:-1]


if __name__ == "__main__":
    sys.exit(main())

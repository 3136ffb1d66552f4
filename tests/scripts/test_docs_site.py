"""The documentation as a site: both tools build it, every page is in it, and every link in it leads somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from scripts.reference.__main__ import pages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BESIDE = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


def test_material_builds_the_site_without_a_warning(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    assert (done.returncode, warnings) == (0, []), done.stderr
    assert "fonts.googleapis.com" not in (tmp_path / "site/index.html").read_text()


def test_generated_pages_are_up_to_date() -> None:
    stale = [name for name, text in pages().items() if (DOCS / "reference" / name).read_text() != text]
    assert stale == []


def test_every_page_has_a_place_in_the_menu() -> None:
    text = re.sub(r"!!python\S+", "", (ROOT / "mkdocs.yml").read_text())
    listed = set(re.findall(r"([\w/.-]+\.md)", str(yaml.safe_load(text)["nav"])))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def test_every_decision_is_in_the_index() -> None:
    index = (DOCS / "decisions/index.md").read_text()
    for decision in sorted((DOCS / "decisions").glob("0*.md")):
        number, _, title = decision.read_text().splitlines()[0].removeprefix("# ").partition(": ")
        assert f"| [{number}]({decision.name}) | {title} |" in index


@pytest.mark.parametrize(
    "document", [*BESIDE, *sorted(DOCS.rglob("*.md"))], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_link_leads_to_a_file_and_a_heading(document: Path) -> None:
    """As GitHub has them too: links out of docs/ that the site cannot have stand outside of it only."""
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
        assert document in BESIDE or linked.is_relative_to(DOCS), f"{target} is not in the site"


def prose(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.M | re.S)


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as both the site and GitHub make them."""
    titles = re.findall(r"^#+ (.*)$", prose(document), re.M)
    return {re.sub(r"-+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip().replace(" ", "-")) for title in titles}


def test_versions_in_the_compatibility_table_are_those_of_tests() -> None:
    tools = ROOT / "tests/cluster/tools"
    pinned = [
        *re.findall(r"k8s\.io/kubernetes v(\S+)", (tools / "kubernetes/go.mod").read_text())[:1],
        *re.findall(r"helm\.sh/helm/v3 v(\S+)", (tools / "helm/go.mod").read_text())[:1],
        *re.findall(r"sigs\.k8s\.io/kind v(\S+)", (tools / "kind/go.mod").read_text())[:1],
        *re.findall(r'"(?:sglang-router|smg)==([^"]+)"', (ROOT / "pyproject.toml").read_text()),
    ]
    table = (DOCS / "reference/compatibility.md").read_text()
    assert len(pinned) == 5
    assert [version for version in pinned if version not in table] == []

"""The files that people look for in an open project: they can be read, and they name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
TYPES = ("breaking", "added", "changed", "fixed", "security", "docs")


def test_release_workflow_runs_what_was_rehearsed() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows/release.yaml").read_text())
    commands = "".join(step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"])
    assert commands.count("make release") == 1
    assert workflow[True] == {"push": {"tags": ["v*"]}}, "YAML reads the key `on` as true"
    assert workflow["permissions"] == {}
    uses = [step["uses"] for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action) for action in uses)


def test_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((GITHUB / "workflows/ci.yaml").read_text())
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert commands == ["make test"]
    assert "make test" in (ROOT / ".ci/run").read_text()
    assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("form", sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yaml")), ids=lambda path: path.stem)
def test_issue_form_has_fields_with_labels(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= content.keys()
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_dependabot_looks_where_files_are() -> None:
    for update in yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]:
        for folder in update.get("directories", [update.get("directory")]):
            assert list(ROOT.glob(folder.strip("/") or "*")), folder


def test_hooks_call_commands_that_exist() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for hook in repository["hooks"]:
        program, *arguments = hook["entry"].split()
        assert program == "make" or (ROOT / program).exists()
        assert program != "make" or arguments[-1] in targets


def test_owned_paths_exist() -> None:
    for line in (GITHUB / "CODEOWNERS").read_text().splitlines():
        if line and not line.startswith("#"):
            path = line.split()[0]
            assert path == "*" or (ROOT / path.strip("/")).exists(), path


def test_changelog_fragments_become_a_section() -> None:
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "next", "--date", "2026-01-01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    fragments = [path for path in (ROOT / "changelog.d").glob("*.md") if path.name != "README.md"]
    for fragment in fragments:
        assert fragment.name.split(".")[-2] in TYPES, fragment.name
        assert fragment.read_text().strip()[:40] in done.stdout

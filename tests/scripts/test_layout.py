"""What CONTRIBUTING says of the layout and no import contract can say."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCTS = {
    "protocol": ("patio_protocol", "protocol_"),
    "api": ("patio_api", "api_"),
    "kube": ("patio_kube", "kube_"),
    "sidecar": ("patio", "sidecar_"),
    "operator": ("patio_operator", "operator_"),
    "release": ("patio_release", "release_"),
    "inference-server": ("inference_server", "inference_"),
    "gateway": ("patio_gateway", "gateway_"),
}
SEVERAL_MODULES = frozenset(
    {
        "docs",
        "document",
        "engines",
        "event_handlers",
        "false_annotations",
        "false_sidecars",
        "field_cases",
        "fleet_simulator",
        "fuzz",
        "fuzz_api",
    }
    | {
        "fuzz_guard",
        "large_fleets",
        "lost_edits",
        "models",
        "oldest_python",
        "promlint",
        "properties",
        "router_double",
        "upgrades",
    }
)
"""Test files about several modules of their folder at once."""
LONGEST_NAME = 60
OPERATOR = ROOT / "operator/src/patio_operator"
FEATURES = ("loraadapters", "groups", "profiles", "modelendpoints")


def tracked(pattern: str) -> list[Path]:
    """Return the files of the repository that match."""
    done = subprocess.run(
        ["git", "ls-files", f":(glob){pattern}"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / line for line in done.stdout.splitlines()]


@pytest.mark.parametrize("product", PRODUCTS)
def test_unit_tests_have_the_name_of_their_module(product: str) -> None:
    package, prefix = PRODUCTS[product]
    tests, sources = ROOT / product / "tests", ROOT / product / "src" / package
    for path in tracked(f"{product}/tests/**/test_*.py"):
        folder = sources / path.parent.relative_to(tests)
        assert folder.is_dir(), f"{path} is in a folder that {package} does not have"
        name = path.stem.removeprefix("test_").removeprefix(prefix)
        modules = {each.stem for each in folder.iterdir() if each.suffix == ".py" or each.is_dir()}
        assert name in SEVERAL_MODULES or any(name == module or name.startswith(f"{module}_") for module in modules), (
            f"{path} is not named by a module of {folder}"
        )


def test_names_of_tests_have_at_most_sixty_characters() -> None:
    texts = [path.read_text() for path in tracked("**/test_*.py")]
    names = [name for text in texts for name in re.findall(r"^ *(?:async )?def (test_\w+)\(", text, re.M)]
    assert len(names) > 1000
    assert [name for name in names if len(name) > LONGEST_NAME] == []


@pytest.mark.parametrize("feature", FEATURES)
def test_features_of_the_operator_have_one_shape(feature: str) -> None:
    assert (OPERATOR / feature / "planner" / "planner.py").is_file()
    for module in ("reconciler", "event_handlers", "wiring"):
        assert (OPERATOR / feature / f"{module}.py").is_file(), module


@pytest.mark.parametrize("feature", FEATURES)
def test_planner_takes_a_frozen_snapshot(feature: str) -> None:
    snapshots = [
        node
        for path in (OPERATOR / feature / "planner").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and node.name == "Snapshot"
    ]
    (snapshot,) = snapshots
    assert "frozen=True" in {
        ast.unparse(each) for node in snapshot.decorator_list for each in getattr(node, "keywords", [])
    }


def test_kopf_handlers_only_pass_keys_on() -> None:
    """`runner` is the one that runs kopf."""
    for path in tracked("operator/src/patio_operator/handlers/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            work = isinstance(node, ast.Await | ast.While | ast.Try)
            assert not work or path.stem == "runner", f"{path}:{node.lineno}"


def test_one_module_of_the_reference_imports_the_packages() -> None:
    packages = {package for package, _ in PRODUCTS.values()}
    importers = {
        path.name
        for path in tracked("scripts/reference/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in packages
    }
    assert importers == {"program.py"}


def test_crds_at_the_top_are_the_charts() -> None:
    assert (ROOT / "crds").resolve() == (ROOT / "charts/patio/crds").resolve()


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {path.stem for path in tracked("**/*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_broad_excepts_say_why() -> None:
    """`except Exception` is for outermost loops, and has its reason beside it."""
    for product, (package, _) in PRODUCTS.items():
        for path in tracked(f"{product}/src/{package}/**/*.py"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if re.search(r"except Exception\b", line):
                    assert re.search(r"#.*\w", line), f"{path}:{number}: say why everything is caught"

"""What other packages put in by entry points, which are distributions that a test writes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from inference_server import CustomServer, EngineError, create_server, hooks
from inference_server.engine_calls import Engine, load, unload
from inference_server.hooks import BACKENDS, HOOKS, hook, installed

ENGINE = Engine("mine", "http://127.0.0.1:9", "base", {}, {})
ADDED = """
from inference_server import CustomServer

class Mine(CustomServer):
    def __init__(self, model, **arguments):
        super().__init__(model, ["true"], **arguments)

def load_adapter(server, name, path):
    if name == "bad":
        raise ValueError("rank 512 is too much for %s" % server["model"])
    if name == "later":
        raise OSError("out of memory")
    return NotImplemented
"""


@pytest.fixture(autouse=True)
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two distributions, one of which cannot be imported; none of the workspace's."""
    for name, points in {
        "a_broken": f"[{HOOKS}]\na = no_such_module\n",
        "added": f"[{HOOKS}]\nb = added_in_a_test\n[{BACKENDS}]\nmine-by-entry-point = added_in_a_test:Mine\n",
    }.items():
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "entry_points.txt").write_text(points)
    (tmp_path / "added_in_a_test.py").write_text(ADDED)
    monkeypatch.setattr(hooks, "_loaded", {})
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "site-packages" not in path)])
    monkeypatch.delitem(sys.modules, "added_in_a_test", raising=False)


def test_functions_of_other_packages_are_found(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = hook("load_adapter")
        assert found is not None
    assert found.__module__ == "added_in_a_test"
    assert hook("metrics") is None
    assert set(installed(HOOKS)) >= {"b"}
    assert "the entry point a of inference_server.hooks cannot be used" in caplog.text


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bad", "rank 512 is too much for base"),
        ("later", "out of memory"),
        ("unknown", "adapters of the backend mine cannot be changed at run time"),
    ],
)
def test_reason_of_a_hook_is_the_error(name: str, expected: str) -> None:
    with pytest.raises(EngineError, match=expected):
        load(ENGINE, name, "/nonexistent")


def test_hook_that_is_not_there_leaves_the_call_to_the_routes() -> None:
    with pytest.raises(EngineError, match="adapters of the backend mine cannot be changed at run time"):
        unload(ENGINE, "bad")


def test_backend_of_another_package_is_found(tmp_path: Path) -> None:
    server = create_server("mine-by-entry-point", "m", output_dir=tmp_path)
    assert isinstance(server, CustomServer)
    with pytest.raises(ValueError, match=r"Unsupported backend: tgi \(known: mine-by-entry-point, .*sglang, vllm\)"):
        create_server("tgi", "m")

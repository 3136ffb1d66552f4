"""Which image kind's node gets."""

from pathlib import Path

import pytest
from docker_stand_in import calls, stand_in

from e2e_cluster import node_image, node_root
from e2e_cluster.errors import ClusterError, MachineError
from e2e_cluster.node_image import VARIABLE, default_image, find_node_image
from e2e_cluster.node_root import root_archive
from e2e_cluster.progress import silent

DEFAULT = f"kindest/node:v1.34.0@sha256:{'7' * 64}"


@pytest.fixture
def kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kind program, and a cache without a node image."""
    monkeypatch.setenv("PATIO_CACHE", str(tmp_path / "cache"))
    program = tmp_path / "kind"
    program.write_bytes(b"\x7fELF..." + DEFAULT.encode() + b"...")
    return program


def test_image_that_the_user_names_is_taken_unseen(tmp_path: Path, kind: Path) -> None:
    docker = stand_in(tmp_path, {})
    assert find_node_image(docker, kind, silent, {VARIABLE: "mine:1"}) == "mine:1"


def test_default_that_docker_has_is_kinds_to_choose(tmp_path: Path, kind: Path) -> None:
    docker = stand_in(tmp_path, {f"image inspect {DEFAULT}": (0, "[]")})
    assert find_node_image(docker, kind, silent, {}) is None


def test_default_is_pulled_if_none_was_made_here(tmp_path: Path, kind: Path) -> None:
    docker = stand_in(tmp_path, {f"pull {DEFAULT}": (0, "done")})
    assert find_node_image(docker, kind, silent, {}) is None
    assert calls(tmp_path)[-1] == f"pull {DEFAULT}"


def test_image_made_here_is_imported_and_nothing_pulled(tmp_path: Path, kind: Path) -> None:
    archive = root_archive()
    archive.parent.mkdir(parents=True)
    archive.write_text("root")
    docker = stand_in(tmp_path, {"import": (0, "sha256:1")})
    ref = find_node_image(docker, kind, silent, {})
    assert ref is not None
    assert ref.startswith("localhost/patio-kind-node:v1.")
    (imported,) = [line for line in calls(tmp_path) if line.startswith("import")]
    assert 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' in imported
    assert imported.endswith(f"{archive} {ref}")
    assert not [line for line in calls(tmp_path) if line.startswith("pull")]


def test_machine_that_cannot_pull_or_make_one_says_so(
    tmp_path: Path, kind: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = stand_in(tmp_path, {"pull": (1, "dial tcp: lookup: Temporary failure in name resolution")})
    monkeypatch.setattr(node_image, "why_not_here", lambda: "root")
    with pytest.raises(MachineError) as raised:
        find_node_image(docker, kind, silent, {})
    text = str(raised.value)
    assert "Temporary failure in name resolution" in text
    assert "making one needs root" in text
    assert VARIABLE in text


def test_program_without_a_default_image_is_an_error() -> None:
    with pytest.raises(ClusterError, match="no default node image"):
        default_image(b"\x7fELF")


def test_key_changes_with_the_binaries(kind: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = root_archive()
    monkeypatch.setattr(node_root, "KIND_NODE", node_root.KIND_NODE[1:])
    assert root_archive() != before

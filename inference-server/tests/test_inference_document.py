"""Every code block of the README and of the page does what it says, with a fake engine and fake profilers on PATH."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import fake_programs
import pytest
import yaml

import inference_server
from inference_server import InferenceServer, VLLMServer, server_from_config
from inference_server.configuration import settings_from
from inference_server.ports import free_port, is_free

FOLDER = Path(__file__).resolve().parents[1]
README = (FOLDER / "README.md").read_text()
BLOCKS = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", README, re.M | re.S)
MODEL = "meta-llama/Llama-2-7b-hf"


def blocks(language: str) -> list[str]:
    """Return the blocks of a language, without the indentation of a list."""
    return [re.sub(f"^{indent}", "", text, flags=re.M) for indent, kind, text in BLOCKS if kind == language]


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, in a folder and with a PATH in which the document's examples can run."""
    monkeypatch.setenv("PATH", fake_programs.path_with(fake_programs.install(tmp_path / "bin")))
    monkeypatch.setenv("PYTHONPATH", str(FOLDER / "src"))
    monkeypatch.chdir(tmp_path)
    return free_port()


def on_port(text: str, port: int) -> str:
    """Return an example with another port than the one that may be in use."""
    return text.replace("8000", str(port))


def run_and_stop(server: InferenceServer) -> None:
    if not server.is_running:
        server.start()
    assert server.probe()
    server.stop()
    assert not server.probe()


def test_all_blocks_are_run() -> None:
    assert {kind for _, kind, _ in BLOCKS} == {"python", "yaml", "bash"}
    assert README.count("```") == 2 * len(BLOCKS)
    assert len(blocks("python")) >= 12
    assert len(blocks("yaml")) >= 6


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_block(index: int, port: int, tmp_path: Path) -> None:
    code = on_port(blocks("python")[index], port)
    names: dict[str, Any] = {name: getattr(inference_server, name) for name in inference_server.__all__}
    (tmp_path / "config.yaml").write_text(on_port(blocks("yaml")[0], port))
    if "requests.post" in code:
        with VLLMServer(MODEL, port=port):
            exec(code, names)
        assert names["response"].json()["choices"]
        return
    exec(code, names)
    if "asyncio.run" in code:
        assert is_free(port), "the server has lived within the call"
        return
    if "class MyBackendServer" in code:
        names["server"] = names["MyBackendServer"]("m", port=port)
        assert names["server"].binary_path == "my-backend-binary"
    server = names["server"]
    if not code.rstrip().endswith((".stop()", "exiting context")) and ".stop()" not in code:
        run_and_stop(server)
    assert not server.is_running
    assert server.stop_report.survivors == ()


@pytest.mark.parametrize("index", range(len(blocks("yaml"))))
def test_yaml_block(index: int, port: int, tmp_path: Path) -> None:
    content = yaml.safe_load(on_port(blocks("yaml")[index], port))
    server = server_from_config({"model": "m", "port": port, **content})
    run_and_stop(server)
    tool = content.get("profile", {}).get("tool")
    if tool == "nsys":
        assert (tmp_path / "profiles/profile.nsys-rep").read_text() == "profile\n"
    if tool == "amd":
        assert "--stats --kernel-trace" in (tmp_path / "bin/rocprofv3-arguments").read_text()
    if tool == "pytorch":
        assert (tmp_path / "profiles").is_dir()


@pytest.mark.parametrize("index", range(len(blocks("bash"))))
def test_bash_block(index: int, port: int, tmp_path: Path) -> None:
    code = blocks("bash")[index].replace("time.sleep(60)", "time.sleep(0)")
    if "pytest" in code:
        code = "set -e\n" + code.replace(" -v", " --collect-only -q -p no:cacheprovider")
        folder = FOLDER
    elif "pip install" in code:
        assert "yaml = [" in (FOLDER / "pyproject.toml").read_text()
        code = f'test -f "{FOLDER}/pyproject.toml"'
        folder = FOLDER.parent
    else:
        (tmp_path / "config.yaml").write_text(on_port(blocks("yaml")[0], port))
        folder = tmp_path
    done = subprocess.run(["bash", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_example_file_has_only_known_keys(port: int) -> None:
    text = on_port((FOLDER / "example_server_config.yaml").read_text(), port)
    content = yaml.safe_load(text)
    assert settings_from(content).warnings == ()
    run_and_stop(server_from_config(content))

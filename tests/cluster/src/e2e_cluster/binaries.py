"""Building the pinned binaries into the cache, once, with progress.

Takes the table of ``pins`` and answers with paths. Each binary is built under another name and then
renamed, so a path that exists is whole; a lock file keeps two runs from building the same thing. The Go
tool chain must be there already: it is checked, never installed.
"""

import fcntl
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.errors import ClusterError, MachineError
from e2e_cluster.pins import BINARIES, Binary, binary_flags, content_key, parse_go_version, required_go
from e2e_cluster.places import TOOLS, cache_root
from e2e_cluster.progress import Report, silent

HEARTBEAT = 10.0


@dataclass(frozen=True)
class Binaries:
    """Paths of built binaries by name."""

    paths: Mapping[str, Path]

    def __getitem__(self, name: str) -> Path:
        """The path of one of them."""
        return self.paths[name]

    @property
    def kubectl(self) -> Path:
        """The kubectl of the cluster's own version."""
        return self.paths["kubectl"]

    @property
    def helm(self) -> Path:
        """Helm, told the cluster's version."""
        return self.paths["helm"]


@dataclass(frozen=True)
class _Build:
    binary: Binary
    flags: str
    target: Path


def ensure_binaries(
    names: Iterable[str],
    report: Report = silent,
    *,
    tools: Path = TOOLS,
    cache: Path | None = None,
    table: Sequence[Binary] = BINARIES,
) -> Binaries:
    """Build those that the cache does not hold, and say where all of them are.

    Args:
        names: of binaries of the table.
        report: gets the progress.
        tools: the folder of the pinned modules.
        cache: where binaries are kept.
        table: the binaries that can be built from `tools`.

    """
    folder = (cache or cache_root()) / "bin"
    builds = _plan(names, table, tools, folder)
    if any(not build.target.exists() for build in builds):
        _check_go(tools, {build.binary.module for build in builds})
        with locked(folder / ".lock", report, "another run builds binaries: waiting for it"):
            lacking = [build for build in builds if not build.target.exists()]
            for number, build in enumerate(lacking, start=1):
                _build(build, tools, report, f"{number}/{len(lacking)}")
    return Binaries({build.binary.name: build.target for build in builds})


def planned_binaries(names: Iterable[str]) -> Binaries:
    """Where binaries are once they are built. Their paths change with what they are made of."""
    builds = _plan(names, BINARIES, TOOLS, cache_root() / "bin")
    return Binaries({build.binary.name: build.target for build in builds})


def _plan(names: Iterable[str], table: Sequence[Binary], tools: Path, folder: Path) -> list[_Build]:
    by_name = {binary.name: binary for binary in table}
    go_mods = {module: (tools / module / "go.mod").read_text() for module in {b.module for b in table}}
    builds = []
    for name in names:
        binary = by_name[name]
        flags = binary_flags(binary, go_mods)
        sources = [
            (file.name, file.read_bytes())
            for file in (tools / binary.module).iterdir()
            if file.name in ("go.mod", "go.sum") or file.suffix == ".go"
        ]
        key = content_key(f"{flags} {binary.tags}".rstrip(), sources)
        builds.append(_Build(binary, flags, folder / key / name))
    return builds


@contextmanager
def locked(path: Path, report: Report, waiting: str) -> Iterator[None]:
    """Hold an exclusive lock on a folder that is there, or on a file made for it.

    It ends with the process, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(waiting)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _check_go(tools: Path, modules: Iterable[str]) -> None:
    needed = max(required_go((tools / module / "go.mod").read_text()) for module in modules)
    spoken = ".".join(map(str, needed))
    if shutil.which("go") is None:
        raise MachineError(f"Go {spoken} or newer is needed to build the cluster; see https://go.dev/dl")
    answer = subprocess.run(
        ["go", "env", "-json", "GOVERSION", "GOTOOLCHAIN"], capture_output=True, text=True, check=True, cwd="/"
    )
    settings = json.loads(answer.stdout)
    found = parse_go_version(settings["GOVERSION"])
    if not go_suffices(found, settings["GOTOOLCHAIN"], needed):
        raise MachineError(
            f"Go {spoken} or newer is needed to build the cluster, this is {settings['GOVERSION']} with "
            f"GOTOOLCHAIN={settings['GOTOOLCHAIN']}; see https://go.dev/dl"
        )


def go_suffices(found: tuple[int, ...], toolchain: str, needed: tuple[int, ...]) -> bool:
    """Whether this Go can build: new enough itself, or allowed to fetch a newer one (from 1.21 on)."""
    return found >= needed or (found >= (1, 21) and toolchain != "local")


def _build(build: _Build, tools: Path, report: Report, position: str) -> None:
    name = build.binary.name
    build.target.parent.mkdir(parents=True, exist_ok=True)
    partial = build.target.with_name(f".{name}.partial")
    command = ["go", "build", "-v", "-trimpath", "-ldflags", build.flags, "-o", str(partial)]
    if build.binary.tags:
        command += ["-tags", build.binary.tags]
    began = time.monotonic()
    report(f"building {name} ({position})")
    running = subprocess.Popen(
        [*command, build.binary.package],
        cwd=tools / build.binary.module,
        env={**os.environ, "CGO_ENABLED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    assert running.stdout is not None
    reader = threading.Thread(target=lines.extend, args=(running.stdout,), daemon=True)
    reader.start()
    while True:
        try:
            running.wait(HEARTBEAT)
            break
        except subprocess.TimeoutExpired:
            report(f"building {name}: {len(lines)} packages compiled, {time.monotonic() - began:.0f} s")
        except BaseException:
            running.kill()
            running.wait()
            raise
    reader.join()
    if running.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed:\n{''.join(lines[-20:])}")
    partial.replace(build.target)
    report(f"built {name} in {time.monotonic() - began:.0f} s")

"""What a release needs, on this machine alone: a registry, a base image, a tagged commit and a throw-away key."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.binaries import Binaries
from e2e_cluster.mounts import remove_folder
from e2e_cluster.places import cache_root
from patio_release.programs import ensure_tools
from patio_release.publisher import Request, pin_base, read_base, release, write_changelog
from patio_release.report import Report
from patio_release.version import Version, read_source
from patio_testing.deadline import DEADLINE
from patio_testing.kube import until
from patio_testing.release.bases import push_base

ROOT = Path(__file__).resolve().parents[5]
AUTHOR = {
    **{
        f"GIT_{role}_{what}": text
        for role in ("AUTHOR", "COMMITTER")
        for what, text in (("NAME", "r"), ("EMAIL", "r@x"))
    },
    **{f"GIT_{role}_DATE": "2026-01-02T03:04:05Z" for role in ("AUTHOR", "COMMITTER")},
}


@dataclass(frozen=True)
class Stage:
    """Where releases are rehearsed."""

    report: Report
    folder: Path
    registry: str
    """The prefix of all published names."""
    tools: Binaries
    version: Version
    base: str
    """The base image, by digest."""

    @property
    def environ(self) -> dict[str, str]:
        """Variables of programs: the key has no password."""
        return {**os.environ, "COSIGN_PASSWORD": "", "HOME": str(self.folder)}

    @property
    def origin(self) -> Path:
        """The repository whose commit is a release of what is committed here."""
        return self.folder / "origin"

    def release(self, output: str, key: str = "cosign.key") -> Mapping[str, str]:
        """Release from a clone; return the digests by reference. `output` names the folder of the release's files."""
        clone = f"clone-for-{output}"
        _git(self.folder, "clone", "--quiet", "origin", clone)
        request = Request(
            self.folder / clone,
            self.folder / output,
            self.registry,
            self.base,
            self.folder / key,
            is_plain_http=True,
        )
        before = os.environ.get("COSIGN_PASSWORD")
        os.environ["COSIGN_PASSWORD"] = ""
        try:
            return release(request, self.report)
        finally:
            if before is None:
                del os.environ["COSIGN_PASSWORD"]
            else:
                os.environ["COSIGN_PASSWORD"] = before


@contextmanager
def stage(folder: Path, report: Report) -> Iterator[Stage]:
    """Prepare all that a release needs; the folder is removed afterwards, since it holds a gigabyte."""
    tools = ensure_tools(report)
    try:
        with _registry(folder, tools["crane"]) as address:
            registry = f"{address}/patio"
            version = read_source(ROOT)
            base = f"{registry}/base:1"
            push_base(base, cache_root(), folder / "store", report)
            origin = folder / "origin"
            _make_tagged_commit(origin, version, base, report)
            made = Stage(report, folder, registry, tools, version, read_base(origin))
            generate = [str(tools["cosign"]), "generate-key-pair"]
            subprocess.run(generate, env=made.environ, cwd=folder, check=True, capture_output=True)
            yield made
    finally:
        remove_folder(folder)


@contextmanager
def _registry(folder: Path, crane: Path) -> Iterator[str]:
    """A registry without TLS on a free port of this machine."""
    log = folder / "registry.log"
    (folder / "registry").mkdir()
    serve = [str(crane), "registry", "serve", "--address", "127.0.0.1:0", "--disk", str(folder / "registry")]
    with log.open("wb") as output:
        server = subprocess.Popen(serve, stdout=output, stderr=subprocess.STDOUT)
    try:
        (port,) = until(
            "the registry's port", lambda: re.findall(r"serving on port (\d+)", log.read_text()), within=DEADLINE
        )
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _make_tagged_commit(origin: Path, version: Version, base: str, report: Report) -> None:
    """Make a repository whose commit is a release of what is committed here: what a maintainer does before the tag."""
    _git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(origin))
    (origin / "release/base.txt").write_text(f"{base}\n")
    pin_base(origin, report)
    write_changelog(origin, version, "2026-01-02")
    _git(origin, "add", "--all")
    _git(origin, "commit", "--quiet", "--allow-empty", "--message", f"Release {version.text}")
    _git(origin, "tag", version.tag)


def _git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, env={**os.environ, **AUTHOR}, check=True, capture_output=True)

"""Programs of Debian packages that are unpacked into the cache, never installed: installing them would start a service.

The package of Prometheus brings `prometheus` and `promtool`, and a service with them. A program that is on the path is
taken from there. Elsewhere than on Debian and Ubuntu that is the only way, and the error says so.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from e2e_cluster.binaries import locked
from e2e_cluster.errors import MachineError
from e2e_cluster.packages import Package
from e2e_cluster.places import cache_root
from e2e_cluster.progress import Report, silent

PROMTOOL = Package("prometheus", "promtool")
PROMETHEUS = Package("prometheus", "prometheus")
UNPACKED = (PROMTOOL, PROMETHEUS)


def ensure_unpacked(package: Package, report: Report = silent, cache: Path | None = None) -> Path:
    """Return the program of a package: from the path, or from the cache, where it is unpacked once."""
    if found := shutil.which(package.provides):
        return Path(found)
    folder = (cache or cache_root()) / "debian"
    program = folder / package.name / "usr/bin" / package.provides
    if program.exists():
        return program
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise MachineError(
            f"missing on this machine: {package.provides} (Debian has it in {package.name}). Put it on the path."
        )
    with locked(folder / ".lock", report, f"another run unpacks packages: waiting for it, for {package.name}"):
        if not program.exists():
            report(f"unpacking {package.name} for {package.provides}")
            _unpack(package.name, folder)
    if not program.exists():
        raise MachineError(f"the package {package.name} has no usr/bin/{package.provides}")
    return program


def _unpack(name: str, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        # apt-get downloads as a user of its own, which must be able to write here.
        place = Path(temporary)
        place.chmod(0o755)
        done = _run(["apt-get", "download", "-q", name], place)
        if done.returncode != 0 and os.geteuid() == 0:
            # A new machine has no lists of packages yet.
            _run(["apt-get", "update", "-q"], place)
            done = _run(["apt-get", "download", "-q", name], place)
        archives = sorted(place.glob("*.deb"))
        if done.returncode != 0 or not archives:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise MachineError(f"`apt-get download {name}` failed:\n{tail}")
        whole = place / "whole"
        done = _run(["dpkg-deb", "--extract", str(archives[0]), str(whole)], place)
        if done.returncode != 0:
            raise MachineError(f"`dpkg-deb --extract` of {name} failed:\n{done.stderr}")
        # A path that exists is whole: it gets its name when everything is there.
        whole.rename(folder / name)


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

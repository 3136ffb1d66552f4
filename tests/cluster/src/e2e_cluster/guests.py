"""Programs of other projects that run in pods beside Patio: Prometheus and its operator, KEDA, metrics-server.

Each is built from its pinned Go module when a test first asks for it, and becomes an image of that one static file.
What else such a project needs, its CRDs above all, is read from the same module, so that it has the same version.
"""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from e2e_cluster.archives import architecture, write_single_file_image
from e2e_cluster.binaries import ensure_binaries
from e2e_cluster.errors import ClusterError
from e2e_cluster.places import TOOLS
from e2e_cluster.progress import Report, silent
from e2e_cluster.provider import Provider

PLACES = {name: f"bin/{name}" for name in ("prometheus", "prometheus-config-reloader")}
"""Where an image must have its program, if not at the top: prometheus-operator names the one path, and mounts a volume
at `/prometheus`."""


def image_of(name: str) -> str:
    """The name of a program's image."""
    return f"ghcr.io/patio/guest-{name}:dev"


def load_guests(provider: Provider, names: Sequence[str], report: Report = silent) -> None:
    """Build programs where they are not in the cache, and put their images on the node of a cluster that is up."""
    binaries = ensure_binaries(names, report)
    with tempfile.TemporaryDirectory(prefix="patio-guest-") as folder:
        for name in names:
            archive = Path(folder) / f"{name}.tar"
            write_single_file_image(
                archive,
                name=image_of(name),
                program=binaries[name],
                architecture=architecture(),
                place=PLACES.get(name),
            )
            provider.load_images([str(archive)])
            archive.unlink()


def module_folder(module: str, path: str) -> Path:
    """The folder with the sources of a Go module, at the version that a module under ``tools/`` requires.

    Raises:
        ClusterError: it is not to be had.

    """
    done = subprocess.run(
        ["go", "mod", "download", "-json", path], cwd=TOOLS / module, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"the Go module {path} is not to be had: {done.stdout.strip() or done.stderr.strip()}")
    return Path(json.loads(done.stdout)["Dir"])

"""Making a node image for kind on this machine: a Debian by debootstrap, furnished as the `node_recipe` says.

The result is the archive of a root file system, kept below the cache by a digest of all that went into it; `node_image`
decides whether one is needed, and has Docker import it. Only root can make one.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from e2e_cluster import archives, node_recipe
from e2e_cluster.archives import architecture, write_image, write_single_file_image
from e2e_cluster.base_image import LEFT_OUT, pack
from e2e_cluster.binaries import Binaries, ensure_binaries, locked, planned_binaries
from e2e_cluster.errors import ClusterError, MachineError
from e2e_cluster.guests import module_folder
from e2e_cluster.longrun import CommandError, run_logged
from e2e_cluster.mounts import remove_folder
from e2e_cluster.node_recipe import ProgramImage
from e2e_cluster.packages import Package, ensure_packages
from e2e_cluster.pins import KIND_NODE, required_version
from e2e_cluster.places import TOOLS, cache_root
from e2e_cluster.progress import Report

KIND_MODULE = "sigs.k8s.io/kind"
KEPT = 2
"""Archives kept: they are large, and going back one change is common."""


def why_not_here() -> str | None:
    """What is missing for making a node image on this machine; None if nothing is."""
    if os.geteuid() != 0:
        return "root"
    if shutil.which("debootstrap") is None and shutil.which("apt-get") is None:
        return "debootstrap"
    return None


def root_archive() -> Path:
    """Where the archive is, or will be."""
    return cache_root() / "node-image" / f"{_key()}.tar"


def make_root(report: Report) -> Path:
    """The archive of a node's root file system, made if it is not in the cache.

    It takes about two minutes, and ten more where the binaries of Kubernetes have to be built first.

    Raises:
        MachineError: debootstrap is missing and cannot be installed, or this is not root.
        CommandError: debootstrap, or another command, failed.

    """
    archive = root_archive()
    if archive.exists():
        return archive
    if refusal := why_not_here():
        raise MachineError(f"making a node image for kind needs {refusal}")
    ensure_packages([Package("debootstrap", "debootstrap")], report)
    binaries = ensure_binaries(KIND_NODE, report)
    with locked(archive.parent / ".lock", report, "another run makes the node image: waiting for it"):
        if not archive.exists():
            _make(archive, binaries, report)
    older = sorted(archive.parent.glob(f"{'?' * 16}.tar"), key=lambda path: path.stat().st_mtime)
    for path in older[:-KEPT]:
        path.unlink(missing_ok=True)
    return archive


def _key() -> str:
    """A digest of all that goes into the image: the sources of this package that make it, and what is named here."""
    parts = [
        *(Path(str(module.__file__)).read_text() for module in (node_recipe, archives)),
        Path(__file__).read_text(),
        *(f"{path.parent.name}/{path.name}" for path in planned_binaries(KIND_NODE).paths.values()),
        *(required_version((TOOLS / "kind" / "go.mod").read_text(), KIND_MODULE), architecture(), *LEFT_OUT),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _make(archive: Path, binaries: Binaries, report: Report) -> None:
    root, log = archive.parent / "root", archive.parent / "node-image.log"
    remove_folder(root)  # a killed debootstrap leaves it, with /proc and /sys mounted
    archive.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    report(f"node image: a Debian {node_recipe.SUITE} with containerd by debootstrap, once (log: {log})")
    include = f"--include={','.join(node_recipe.PACKAGES)}"
    command = ["debootstrap", "--variant=minbase", include, node_recipe.SUITE, str(root)]
    run_logged("node image", command, log, report)
    configuration = _furnish(root, binaries)
    report("node image: the images of the control plane")
    listed = _output(
        [str(binaries["kubeadm"]), "config", "images", "list", f"--kubernetes-version={kubernetes_version()}"]
    )
    for image in node_recipe.program_images(listed, configuration):
        _write_program_image(root, image, binaries[image.binary])
    report("node image: packing")
    pack(root, archive, "node image", log, report)
    report(f"node image: {archive}, {archive.stat().st_size / 1e6:.0f} MB")


def _furnish(root: Path, binaries: Binaries) -> str:
    """Make a Debian a node: kind's files, units, binaries, settings. Returns containerd's settings."""
    for name in node_recipe.OF_THIS_MACHINE:
        (root / name).unlink(missing_ok=True)
    for pattern in node_recipe.REMOVED:
        for path in root.glob(pattern):
            path.unlink()
    _copy_files_of_kind(root)
    for folder in node_recipe.FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for place, text in node_recipe.texts(kubernetes_version()).items():
        _parent(root / place).write_text(text)
    for name in node_recipe.BINARIES_IN_NODE:
        shutil.copyfile(binaries[name], root / "usr/bin" / name)
        (root / "usr/bin" / name).chmod(0o755)
    for place, target in node_recipe.LINKS.items():
        _parent(root / place).symlink_to(target)
    settings = root / "etc/containerd/config.toml"
    settings.write_text(node_recipe.containerd_settings(settings.read_text()))
    specification = _output(["chroot", str(root), "ctr", "oci", "spec"])
    (root / "etc/containerd/cri-base.json").write_text(node_recipe.container_defaults(specification))
    return settings.read_text()


def _copy_files_of_kind(root: Path) -> None:
    """Copy the files that kind's own Dockerfile copies, with the modes that it gives them."""
    files = module_folder("kind", KIND_MODULE) / "images/base/files"
    for file in (path for path in files.rglob("*") if path.is_file()):
        place = file.relative_to(files)
        target = _parent(root / place)
        shutil.copyfile(file, target)
        target.chmod(0o755 if str(place.parent) in node_recipe.EXECUTABLE else 0o644)


def _write_program_image(root: Path, image: ProgramImage, program: Path) -> None:
    archive = root / "kind/images" / f"{image.binary}.tar"
    if image.binary != "kube-proxy":
        write_single_file_image(
            archive,
            name=image.name,
            program=program,
            architecture=architecture(),
            place=image.place,
            user=archives.ROOT,
        )
        return
    files = {image.place: program}
    files |= {place: inside(root, source) for place, source in node_recipe.PROXY_PROGRAMS.items()}
    files |= {str(path.relative_to(root)): path for path in root.glob(node_recipe.PROXY_MODULES)}
    needed = _output(["chroot", str(root), "ldd", *(f"/{place}" for place in files if place != image.place)])
    files |= {place: inside(root, place) for place in node_recipe.libraries(needed.splitlines())}
    write_image(
        archive,
        name=image.name,
        files=files,
        entrypoint=f"/{image.place}",
        architecture=architecture(),
        user=archives.ROOT,
    )


def inside(root: Path, place: str) -> Path:
    """The file at a path of another root, following links as that root's own processes would.

    Raises:
        ClusterError: there is none, or links lead in a circle.

    """
    path = root
    parts = list(Path(place).parts)
    for _ in range(200):
        if not parts:
            return path
        part = parts.pop(0)
        if part in ("/", ".."):
            path = root if part == "/" else (path.parent if path != root else root)
            continue
        path = path / part
        if path.is_symlink():
            parts = [*path.readlink().parts, *parts]
            path = path.parent
        elif not path.exists():
            break
    raise ClusterError(f"there is no {place} in {root}")


def kubernetes_version() -> str:
    """The version of Kubernetes in the node."""
    return required_version((TOOLS / "kubernetes" / "go.mod").read_text(), "k8s.io/kubernetes")


def _parent(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"`{' '.join(command)[:200]}` failed: {done.stderr.strip()}")
    return done.stdout

"""A base for two platforms where no public one can be had: made of Debian packages, and pushed to a registry.

The base for this machine is the one of all our images (`e2e_cluster.base_image`). The foreign one is unpacked and not
configured, since nothing of it can run here: packages' files and their list are there, and not what their scripts would
write. That is enough to build on, and to see what an image has; it is never published.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from e2e_cluster.base_image import PACKAGES, SUITE, base_key, pack, root_archive
from e2e_cluster.longrun import run_logged
from e2e_cluster.mounts import remove_folder
from patio_release.report import Report

FOREIGN = "arm64"


def foreign_archive(cache: Path, report: Report) -> Path:
    """Return the archive of the foreign base's root file system, made once: some minutes of downloads."""
    folder = cache / "base"
    archive = folder / f"{FOREIGN}-{base_key()}.tar"
    if archive.exists():
        return archive
    root, log = folder / f"root-{FOREIGN}", folder / f"debootstrap-{FOREIGN}.log"
    remove_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["--foreign", f"--arch={FOREIGN}", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
    run_logged("foreign base", ["debootstrap", *words, SUITE, str(root)], log, report)
    listed = []
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", package, root], check=True, capture_output=True)
        fields = subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True, text=True).stdout
        listed.append(f"{fields.rstrip()}\nStatus: install ok installed\n")
    (root / "var/lib/dpkg/status").write_text("\n".join(listed))
    return pack(root, archive, "foreign base", log, report)


def push_base(reference: str, cache: Path, store: Path, report: Report) -> None:
    """Push an index with a base for each platform to a registry without TLS on this machine."""
    place = ["--root", str(store / "root"), "--runroot", str(store / "run")]
    log = store / "base.log"

    def buildah(*arguments: str) -> list[str]:
        return ["buildah", "--storage-driver", "overlay", *place, *arguments]

    index = "localhost/base:index"
    store.mkdir(parents=True)
    try:
        run_logged("base", buildah("manifest", "create", index), log, report)
        for architecture, archive in (
            ("amd64", root_archive(cache, report)),
            (FOREIGN, foreign_archive(cache, report)),
        ):
            name = f"localhost/base:{architecture}"
            made = subprocess.run(buildah("from", "scratch"), check=True, capture_output=True, text=True)
            container = made.stdout.strip()
            run_logged("base", buildah("add", container, str(archive), "/"), log, report)
            run_logged("base", buildah("config", "--arch", architecture, container), log, report)
            run_logged("base", buildah("commit", "--rm", "--timestamp", "0", container, name), log, report)
            run_logged("base", buildah("manifest", "add", index, f"containers-storage:{name}"), log, report)
        push = ["manifest", "push", "--all", "--format", "oci", "--tls-verify=false", index, f"docker://{reference}"]
        run_logged("base", buildah(*push), log, report)
    finally:
        subprocess.run(buildah("rm", "--all"), check=False, capture_output=True)
        remove_folder(store)

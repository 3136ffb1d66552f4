"""The image of kind's node: which one is used, and making one where none can be had.

In this order: the one that PATIO_KIND_NODE_IMAGE names; the default of the pinned kind, if the daemon has it; one that
was made here before; the default, pulled; one that is made now, by `node_root`.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from e2e_cluster import node_recipe
from e2e_cluster.docker_client import DockerClient, last_words
from e2e_cluster.errors import ClusterError, MachineError
from e2e_cluster.longrun import CommandError, run_logged
from e2e_cluster.node_root import kubernetes_version, make_root, root_archive, why_not_here
from e2e_cluster.places import cache_root
from e2e_cluster.progress import Report

VARIABLE = "PATIO_KIND_NODE_IMAGE"
REPOSITORY = "localhost/patio-kind-node"


def find_node_image(
    docker: DockerClient, kind: Path, report: Report, environ: Mapping[str, str] = os.environ
) -> str | None:
    """The image to name to kind; None for its own default.

    Raises:
        ClusterError: none can be pulled, and none can be made here; the text says what to do.

    """
    if named := environ.get(VARIABLE):
        return named
    default = default_image(kind.read_bytes())
    if docker.has_image(default):
        return None
    if root_archive().exists():
        return _import(docker, root_archive(), report)
    try:
        _pull(docker, default, report)
    except CommandError as error:
        reason = last_words(str(error))
        report(f"kind's node image cannot be pulled: {reason}")
        if refusal := why_not_here():
            raise MachineError(
                f"kind's node image {default} cannot be pulled ({reason}), and making one needs {refusal}. "
                f"Name one that Docker has, or can pull, with {VARIABLE}."
            ) from error
        return _import(docker, make_root(report), report)
    return None


def default_image(kind: bytes) -> str:
    """The node image that a kind program has as its default, by digest."""
    found = re.search(rb"kindest/node:v[0-9.]+@sha256:[0-9a-f]{64}", kind)
    if found is None:
        raise ClusterError("this kind has no default node image")
    return found[0].decode()


def _pull(docker: DockerClient, image: str, report: Report) -> None:
    log = cache_root() / "node-image" / "pull.log"
    log.unlink(missing_ok=True)
    report(f"pulling kind's node image (log: {log})")
    run_logged("kind's node image", ["docker", "pull", image], log, report, environ=docker.environ)


def _import(docker: DockerClient, archive: Path, report: Report) -> str:
    ref = f"{REPOSITORY}:{kubernetes_version()}-{archive.stem}"
    if not docker.has_image(ref):
        report(f"importing the node image {ref}")
        entrypoint = ", ".join(f'"{word}"' for word in node_recipe.ENTRYPOINT)
        changes = ["--change", f"ENTRYPOINT [{entrypoint}]", "--change", f"ENV {node_recipe.ENVIRONMENT}"]
        done = docker.run("import", *changes, str(archive), ref)
        if done.returncode != 0:
            raise ClusterError(f"Docker could not import the node image {archive}:\n{done.stderr.strip()}")
    return ref

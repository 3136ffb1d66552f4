"""The command line: ``python -m e2e_cluster COMMAND``.

Progress goes to stderr, answers (a path, a status) to stdout. Status 0 means done, 1 that something a
user can act on is wrong, said in one message.
"""

import argparse
import sys
from collections.abc import Sequence

from e2e_cluster import connect
from e2e_cluster.docker_daemon import ROOT as DOCKER_STATE
from e2e_cluster.errors import ClusterError
from e2e_cluster.node_image import VARIABLE as NODE_IMAGE
from e2e_cluster.node_root import make_root
from e2e_cluster.places import STATE
from e2e_cluster.progress import timed
from e2e_cluster.provider import NAMES, VARIABLE, Provider
from e2e_cluster.unpacked import UNPACKED, ensure_unpacked

DESCRIPTION = "A real Kubernetes cluster with one node, for tests and the demo."
EPILOG = f"""\
Providers:
  kind    inside Docker; chosen where a Docker daemon answers. Asked for where none does, it installs and starts
          one (Debian or Ubuntu, root), in {DOCKER_STATE}. ${NODE_IMAGE} names the image of its node
  local   etcd, the control plane, containerd, kubelet, kube-proxy and CoreDNS as processes of this
          machine (Linux, root); chosen otherwise. One per machine; all of it in {STATE}.

The binaries are built from pinned Go modules (first time: about ten minutes on two cores) and cached in
$PATIO_CACHE/bin (default: ~/.cache/patio/bin). Missing system packages are installed on Debian and Ubuntu.

Examples:
  python -m e2e_cluster up
  export KUBECONFIG=$(python -m e2e_cluster kubeconfig)
  python -m e2e_cluster load-image sidecar.tar ghcr.io/patio/operator:dev
  python -m e2e_cluster down
"""
COMMANDS = {
    "up": "start the cluster; a healthy one is left alone, leftovers of a dead one are cleared first",
    "down": "remove the cluster, in whatever state it is; fails naming what it could not remove",
    "load-image": "put images on the node",
    "kubeconfig": "print the path of the administrator's kubeconfig",
    "node-image": "make the image of kind's node on this machine, and print its archive; kind uses it from then on",
    "tools": "install or unpack system packages, build the binaries, print where they are, start nothing",
    "status": "print what there is; status 1 unless the cluster can be used",
}


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    top = argparse.ArgumentParser(
        prog="python -m e2e_cluster",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--provider", choices=NAMES, help=f"which kind of cluster (default: ${VARIABLE}, else what fits)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=help_text.capitalize() + ".")
        if name == "load-image":
            command.add_argument(
                "images",
                nargs="+",
                metavar="ARCHIVE|IMAGE",
                help="a docker-archive file, or the name of an image known to buildah or Docker",
            )
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command."""
    options = parser().parse_args(arguments)
    try:
        return _run(options, connect(options.provider, timed()))
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace, provider: Provider) -> int:
    match options.command:
        case "up":
            provider.up()
        case "down":
            provider.down()
        case "load-image":
            provider.load_images(options.images)
        case "kubeconfig":
            print(provider.kubeconfig)
        case "node-image":
            print(make_root(timed()))
        case "tools":
            for name, path in provider.tools().paths.items():
                print(f"{name} {path}")
            for package in UNPACKED:
                print(f"{package.provides} {ensure_unpacked(package, timed())}")
        case "status":
            status = provider.status()
            print("\n".join(status.lines))
            return 0 if status.usable else 1
    return 0

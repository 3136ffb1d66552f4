"""The kind provider: the same one-node cluster inside Docker. Thin on purpose.

kind does the work; this module gives it a name, a configuration and a kubeconfig of its own. The node's
image, with its digest, is the default of the pinned kind release, which is chosen so that it runs the
same minor version of Kubernetes as the local provider.
"""

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from e2e_cluster.binaries import Binaries, ensure_binaries
from e2e_cluster.configuration import RESTART_BACKOFF
from e2e_cluster.errors import ClusterError
from e2e_cluster.pins import KIND
from e2e_cluster.places import cache_root
from e2e_cluster.probes import get, node_is_usable
from e2e_cluster.progress import Report, silent
from e2e_cluster.provider import Status, save_image

DEADLINE = 60.0
CLUSTER = "patio"


def cluster_configuration() -> str:
    """What kind is asked for: one node, on which the kubelet restarts killed engines soon.

    The cache is on the node under its own path, so that hostPath volumes find models there as on this machine.
    """
    kubelet = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": RESTART_BACKOFF},
    }
    cache = str(cache_root())
    mount = {"hostPath": cache, "containerPath": cache, "readOnly": True}
    return json.dumps(
        {
            "kind": "Cluster",
            "apiVersion": "kind.x-k8s.io/v1alpha4",
            "name": CLUSTER,
            "nodes": [{"role": "control-plane", "extraMounts": [mount]}],
            "kubeadmConfigPatches": [json.dumps(kubelet)],
        },
        indent=2,
    )


class KindProvider:
    """The cluster named ``patio`` among this user's kind clusters."""

    name = "kind"

    def __init__(self, report: Report = silent) -> None:
        self._report = report

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, apart from the user's own."""
        return cache_root() / "kind" / "kubeconfig"

    def tools(self) -> Binaries:
        """Build kind, kubectl and helm; the rest comes in the node's image."""
        return ensure_binaries(KIND, self._report)

    def up(self) -> None:
        """Reuse a cluster whose node is ready, or make one."""
        binaries = self.tools()
        if self._is_usable(binaries):
            self._report(f"the cluster is up already: KUBECONFIG={self.kubeconfig}")
            return
        self._kind(binaries, "delete", "cluster", "--name", CLUSTER)
        self.kubeconfig.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(cluster_configuration())
            file.flush()
            self._kind(binaries, "create", "cluster", "--config", file.name, "--wait", "180s")
        self._report(f"the cluster is up: KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Delete the cluster, and check that kind knows of none."""
        binaries = self.tools()
        self._kind(binaries, "delete", "cluster", "--name", CLUSTER)
        self.kubeconfig.unlink(missing_ok=True)
        if self._exists(binaries):
            raise ClusterError(f"kind still has a cluster {CLUSTER!r} after deleting it")
        self._report("the cluster is gone")

    def load_images(self, images: Sequence[str]) -> None:
        """Put archives, or images of this machine, on the node."""
        binaries = self.tools()
        with tempfile.TemporaryDirectory(prefix="patio-image-") as scratch:
            for number, image in enumerate(images):
                archive = Path(image)
                if not archive.is_file():
                    archive = Path(scratch) / f"{number}.tar"
                    save_image(image, archive, self._report)
                self._kind(binaries, "load", "image-archive", str(archive), "--name", CLUSTER)
                self._report(f"{image}: loaded")

    def restart_kubelet(self) -> None:
        """Kill the kubelet in the node's container, where systemd starts it again."""
        binaries = self.tools()
        kill = ["docker", "exec", f"{CLUSTER}-control-plane", "systemctl", "kill", "--signal=KILL", "kubelet"]
        done = subprocess.run(kill, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ClusterError(f"the kubelet could not be killed: {done.stderr.strip()}")
        end = time.monotonic() + DEADLINE
        while not self._is_usable(binaries):
            if time.monotonic() > end:
                raise ClusterError(f"the node is not ready {DEADLINE:.0f} s after its kubelet was killed")
            time.sleep(1)

    def status(self) -> Status:
        """Whether the cluster exists and its node is ready."""
        binaries = self.tools()
        usable = self._is_usable(binaries)
        known = "exists" if self._exists(binaries) else "does not exist"
        state = "usable" if usable else "NOT USABLE"
        return Status(usable, (f"kind cluster {CLUSTER!r} {known}", f"{state}; KUBECONFIG={self.kubeconfig}"))

    def _exists(self, binaries: Binaries) -> bool:
        return CLUSTER in self._kind(binaries, "get", "clusters").split()

    def _is_usable(self, binaries: Binaries) -> bool:
        if not self.kubeconfig.exists():
            return False
        return node_is_usable(get(binaries.kubectl, self.kubeconfig, "node", f"{CLUSTER}-control-plane"))

    def _kind(self, binaries: Binaries, *arguments: str) -> str:
        self._report(f"kind {' '.join(arguments)}")
        done = subprocess.run(
            [str(binaries["kind"]), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )
        if done.returncode != 0:
            raise ClusterError(f"`kind {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
        return done.stdout

"""The kind provider: the same one-node cluster inside Docker.

kind does the work; this module gives it a daemon, a node image, a configuration and a kubeconfig of its own, and puts
back what a node changed on the machine. Where no Docker daemon answers, `docker_daemon` has one; `node_image` says
which image the node has. By default it is that of the pinned kind release, which is chosen so that it runs the same
minor version of Kubernetes as the local provider.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from e2e_cluster import kernel
from e2e_cluster.archives import read_archive
from e2e_cluster.binaries import Binaries, ensure_binaries, locked
from e2e_cluster.configuration import RESTART_BACKOFF
from e2e_cluster.docker_client import DockerClient, last_words
from e2e_cluster.docker_daemon import KIND_NETWORK, OwnDaemon
from e2e_cluster.errors import ClusterError, ResidueError, StartError
from e2e_cluster.longrun import CommandError, run_logged
from e2e_cluster.node_image import find_node_image
from e2e_cluster.pins import KIND
from e2e_cluster.places import cache_root
from e2e_cluster.probes import get, node_is_usable
from e2e_cluster.processes import log_tail
from e2e_cluster.progress import Report, silent
from e2e_cluster.provider import Status, save_image

DEADLINE = 60.0
PATIENCE = 15.0
"""Seconds that a node which is there may be away for a moment before the cluster is made anew."""
CLUSTER = "patio"
NODE = f"{CLUSTER}-control-plane"
RECORD = "/kind/patio-images.json"
"""Where the node keeps which image was loaded from which content."""


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


def kind_environ(docker: Mapping[str, str], kubeconfig: Path) -> dict[str, str]:
    """The environment of kind: this daemon, this kubeconfig, and nothing that would give it another mind."""
    others = ("KIND_CLUSTER_NAME", "KIND_EXPERIMENTAL_DOCKER_NETWORK")
    kept = {name: value for name, value in docker.items() if name not in others}
    return {**kept, "KUBECONFIG": str(kubeconfig), "KIND_EXPERIMENTAL_PROVIDER": "docker"}


class KindProvider:
    """The cluster named ``patio`` among this user's kind clusters."""

    name = "kind"

    def __init__(self, report: Report = silent, own: OwnDaemon | None = None) -> None:
        self._report = report
        self._own = own or OwnDaemon()
        self._folder = cache_root() / "kind"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, apart from the user's own."""
        return self._folder / "kubeconfig"

    @property
    def machine_address(self) -> str:
        """This machine, as the node and its pods see it: the gateway of their network."""
        place = f"{{{{(index .NetworkSettings.Networks {json.dumps(KIND_NETWORK)}).Gateway}}}}"
        found = self._docker().run("inspect", NODE, "--format", place)
        if found.returncode != 0 or not found.stdout.strip():
            raise ClusterError(f"the node's network is not known: {last_words(found.stderr)}")
        return found.stdout.strip()

    def tools(self) -> Binaries:
        """Build kind, kubectl and helm; the rest comes in the node's image."""
        return ensure_binaries(KIND, self._report)

    def up(self) -> None:
        """Reuse a cluster whose node is ready, or make one; first of all, start a Docker daemon where none answers."""
        binaries = self.tools()
        with self._lock():
            docker = self._reach_or_start()
            exists = CLUSTER in self._clusters(binaries, docker)
            if exists and not self.kubeconfig.exists():
                self._kind(binaries, docker, "export", "kubeconfig", "--name", CLUSTER)
            if exists and self._becomes_usable(binaries, PATIENCE):
                self._report(f"the cluster is up already: KUBECONFIG={self.kubeconfig}")
                return
            image = find_node_image(docker, binaries["kind"], self._report)
            self._kind(binaries, docker, "delete", "cluster", "--name", CLUSTER)
            self._remember(binaries, docker)
            self._create(binaries, docker, image)
            if not self._becomes_usable(binaries, DEADLINE):
                raise StartError(f"the node is not usable {DEADLINE:.0f} s after it was Ready: taints keep pods off it")
        self._report(f"the cluster is up: KUBECONFIG={self.kubeconfig}")

    def down(self) -> None:
        """Delete the cluster, end a Docker daemon of our own, and put back what the node changed on this machine."""
        binaries = self.tools()
        with self._lock():
            docker = self._reach()
            if docker is not None:
                self._kind(binaries, docker, "delete", "cluster", "--name", CLUSTER)
                if CLUSTER in (others := self._clusters(binaries, docker)):
                    raise ResidueError(f"kind still has a cluster {CLUSTER!r} after deleting it")
                if not self._own.exists() and not others:
                    self._put_back(docker)
            self.kubeconfig.unlink(missing_ok=True)
            if self._own.residue():
                self._own.remove()
        self._report("the cluster is gone" if docker else "no cluster: no Docker daemon answers")

    def load_images(self, images: Sequence[str]) -> None:
        """Put archives, or images of this machine, on the node, as far as it does not have them."""
        binaries, docker = self.tools(), self._docker()
        known: dict[str, str] = json.loads(docker.run("exec", NODE, "cat", RECORD).stdout or "{}")
        with tempfile.TemporaryDirectory(prefix="patio-image-") as scratch:
            for number, image in enumerate(images):
                archive = Path(image)
                if not archive.is_file():
                    archive = Path(scratch) / f"{number}.tar"
                    save_image(image, archive, self._report)
                brought = {each.name: each.identity for each in read_archive(archive)}
                if brought.items() <= known.items():
                    self._report(f"{', '.join(brought)}: on the node already")
                    continue
                self._kind(binaries, docker, "load", "image-archive", str(archive), "--name", CLUSTER)
                known |= brought
                written = docker.run("exec", "-i", NODE, "tee", RECORD, stdin=json.dumps(known))
                if written.returncode != 0:
                    raise ClusterError(f"the node does not keep what was loaded: {last_words(written.stderr)}")
                self._report(f"{', '.join(brought)}: loaded")

    def restart_kubelet(self) -> None:
        """Kill the kubelet in the node's container, where systemd starts it again."""
        binaries, docker = self.tools(), self._docker()
        before = self._kubelet(docker)
        killed = docker.run("exec", NODE, "systemctl", "kill", "--signal=KILL", "kubelet")
        if killed.returncode != 0:
            raise ClusterError(f"the kubelet could not be killed: {last_words(killed.stderr)}")
        # The API server takes a node for ready for some time after its kubelet is gone.
        if not _comes(lambda: self._kubelet(docker) not in ("0", before) and self._is_usable(binaries), DEADLINE):
            raise ClusterError(f"the node is not ready {DEADLINE:.0f} s after its kubelet was killed")

    def status(self) -> Status:
        """Whether the cluster exists and its node is ready."""
        binaries, docker = self.tools(), self._reach()
        if docker is None:
            left = self._own.residue()
            return Status(False, ("no Docker daemon answers", *left))
        usable = self._is_usable(binaries)
        known = "exists" if CLUSTER in self._clusters(binaries, docker) else "does not exist"
        whose = "a Docker daemon of our own" if self._own.exists() else "this machine's Docker"
        state = "usable" if usable else "NOT USABLE"
        return Status(
            usable, (f"kind cluster {CLUSTER!r} in {whose} {known}", f"{state}; KUBECONFIG={self.kubeconfig}")
        )

    def _lock(self) -> AbstractContextManager[None]:
        # As for the local cluster: the same for every user and cache.
        shared = self._own.root.parent
        place = shared if shared.is_dir() else self._folder / ".lock"
        return locked(place, self._report, "another run changes the cluster: waiting for it")

    def _reach(self) -> DockerClient | None:
        """The daemon that has the cluster, or would have it: ours if there is one, otherwise the machine's."""
        docker = self._own.client() if self._own.exists() else DockerClient()
        return docker if docker.answers() else None

    def _reach_or_start(self) -> DockerClient:
        if (docker := self._reach()) is not None:
            return docker
        if left := self._own.residue():
            self._report(f"clearing what a Docker daemon of our own left: {len(left)} things")
            self._own.remove()
        machines = DockerClient()
        refusal = machines.refusal()
        return machines if refusal is None else self._own.start(self._report, refusal)

    def _docker(self) -> DockerClient:
        docker = self._reach()
        if docker is None:
            raise ClusterError("no Docker daemon answers, so there is no kind cluster: run `up` first")
        return docker

    def _create(self, binaries: Binaries, docker: DockerClient, image: str | None) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        log = self._folder / "create.log"
        log.unlink(missing_ok=True)
        # Retained, or kind would have removed the node with all its logs by the time we hear of the fault.
        wanted = ["--name", CLUSTER, "--wait", "180s", "--retain", *(["--image", image] if image else [])]
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(cluster_configuration())
            file.flush()
            command = [str(binaries["kind"]), "create", "cluster", "--config", file.name, *wanted]
            self._report(f"kind {' '.join(command[1:])}")
            try:
                run_logged("kind create", command, log, self._report, environ=self._environ(docker))
            except CommandError as error:
                raise StartError(f"{error}\n{self._node_logs(binaries, docker)}") from error

    def _node_logs(self, binaries: Binaries, docker: DockerClient) -> str:
        """Fetch the logs of a node that did not come up; say where they are, and what its kubelet said last."""
        folder = self._folder / "logs"
        try:
            self._kind(binaries, docker, "export", "logs", str(folder), "--name", CLUSTER)
        except ClusterError:
            # Some of it needs a crictl on the node, which not every image has: the logs are there all the same.
            self._report("not everything could be exported")
        shown = next((name for name in ("kubelet.log", "serial.log") if (folder / NODE / name).exists()), None)
        if shown is None:
            return "there was no node that could have logs"
        return (
            f"The node's logs are in {folder / NODE}; it is kept until the next `up` or `down`. "
            f"The end of its {shown}:\n{log_tail(folder / NODE / shown)}"
        )

    @property
    def _memory(self) -> Path:
        return self._folder / "before.json"

    @property
    def _kernel_settings(self) -> Path:
        return self._folder / "sysctls.json"

    def _remember(self, binaries: Binaries, docker: DockerClient) -> None:
        """Write down what the node will change, where the daemon is the machine's: ours has remembered it itself."""
        if self._own.exists() or self._clusters(binaries, docker):
            return
        if kernel.SYSCTLS.is_dir():
            kernel.remember(self._kernel_settings, names=kernel.CHANGED_IN_CONTAINER)
        if not self._memory.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._memory.write_text(json.dumps({"network": docker.succeeds("network", "inspect", KIND_NETWORK)}))

    def _put_back(self, docker: DockerClient) -> None:
        """Put back what was remembered. Only called when kind has no other cluster, which would need it."""
        if self._memory.exists() and not json.loads(self._memory.read_text())["network"]:
            docker.run("network", "rm", KIND_NETWORK)
        refused = kernel.restore(self._kernel_settings)
        self._memory.unlink(missing_ok=True)
        self._kernel_settings.unlink(missing_ok=True)
        if refused:
            self._report(f"the node changed settings of the kernel; as root: sysctl --write {' '.join(refused)}")

    def _kubelet(self, docker: DockerClient) -> str:
        """The kubelet's process in the node; 0 while there is none."""
        shown = docker.run("exec", NODE, "systemctl", "show", "--property=MainPID", "--value", "kubelet")
        return shown.stdout.strip() or "0"

    def _clusters(self, binaries: Binaries, docker: DockerClient) -> list[str]:
        return self._kind(binaries, docker, "get", "clusters").split()

    def _is_usable(self, binaries: Binaries) -> bool:
        if not self.kubeconfig.exists():
            return False
        return node_is_usable(get(binaries.kubectl, self.kubeconfig, "node", NODE))

    def _becomes_usable(self, binaries: Binaries, seconds: float) -> bool:
        # A node that is Ready keeps a taint until the controller manager has seen it.
        return _comes(lambda: self._is_usable(binaries), seconds)

    def _environ(self, docker: DockerClient) -> dict[str, str]:
        return kind_environ(docker.environ, self.kubeconfig)

    def _kind(self, binaries: Binaries, docker: DockerClient, *arguments: str) -> str:
        done = subprocess.run(
            [str(binaries["kind"]), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self._environ(docker),
        )
        if done.returncode != 0:
            raise ClusterError(f"`kind {' '.join(arguments)}` failed:\n{done.stderr.strip()}")
        return done.stdout


def _comes(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds; return whether it came within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True

"""A Docker daemon of our own, for kind on a machine where none answers.

Everything that it keeps is in one folder, its socket and its containerd included: it disturbs no Docker of the
machine, and goes with that folder. `kind` starts it when the user asks for kind, and ends it at `down`. Its containers
reach this machine and each other, nothing else: it forwards nothing and changes no packet filter. What is there of it
is read from the kernel and the file system, as `residue` does for the local cluster.
"""

import inspect
import ipaddress
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster import cgroups, kernel, limited_runc, network
from e2e_cluster.components import Component
from e2e_cluster.docker_client import DockerClient, last_words
from e2e_cluster.errors import MachineError, ResidueError, StartError
from e2e_cluster.mounts import MOUNTINFO, mounts_below, remove_folder
from e2e_cluster.packages import Package, ensure_packages, is_present, missing, system_path
from e2e_cluster.probes import listens
from e2e_cluster.processes import find_cluster_processes, kill_cluster_processes, start, wait_until
from e2e_cluster.progress import Report
from e2e_cluster.residue import SHIM_SOCKETS, deserted_shim_sockets, remove_empty

ROOT = Path("/var/lib/patio-docker")
NETWORK = ipaddress.IPv4Network("10.214.0.0/24")
BRIDGE = "patio-kind0"
KIND_NETWORK = "kind"
"""The name that kind looks for."""
CGROUP = "patio-docker"
RUNTIME = "limited-runc"
PACKAGES = (
    Package("docker.io", "dockerd"),
    Package("containerd", "containerd"),
    Package("runc", "runc"),
    Package("iproute2", "ip"),
)
CLIENT = Package("docker-cli", "docker")
"""Apart since Debian 13; before, docker.io has the client as well."""
SYS_RESOURCE = 24
"""The number of the capability in the kernel's masks."""
HAS_NO_OOM_SETTING = 25
"""The major version of Docker from which on it leaves OOM scores alone, and refuses the setting."""
DEADLINE = 60.0
SETTLE = 10.0
POLL = 0.1
FIXED_PLACES = (Path("/etc/docker/key.json"), Path("/etc/docker"), Path("/run/docker"), Path("/lib/modules"))
"""What Docker and kind make at places that cannot be chosen. Removed again where it was not there before."""


@dataclass(frozen=True)
class OwnDaemon:
    """The daemon whose folder this is; one per machine, since its address range and control group exist once."""

    root: Path = ROOT

    @property
    def socket(self) -> Path:
        """Where it listens."""
        return self.root / "docker.sock"

    @property
    def kernel_settings(self) -> Path:
        """The kernel's settings as they were before."""
        return self.root / "sysctls.json"

    @property
    def absent(self) -> Path:
        """Which of the fixed places were not there before."""
        return self.root / "absent.json"

    @property
    def logs(self) -> Path:
        """Its log and that of its containerd."""
        return self.root / "logs"

    def exists(self) -> bool:
        """Whether there is such a daemon, alive or dead."""
        return self.root.exists()

    def client(self) -> DockerClient:
        """How to reach it."""
        return DockerClient(client_environ(self.socket, os.environ))

    def start(self, report: Report, refusal: str) -> DockerClient:
        """Install what the machine lacks, and start one. Nothing must be left of an earlier one.

        Args:
            report: gets the progress.
            refusal: why the machine's own Docker cannot be used, for the message.

        Returns:
            How to reach it; or the machine's own daemon, where installing Docker started that.

        Raises:
            MachineError: this machine is not one on which that can be done.

        """
        if not can_run(platform.system(), os.geteuid(), bool(missing(PACKAGES)), shutil.which("apt-get") is not None):
            raise MachineError(
                f"kind needs a Docker daemon, and none answers: {refusal}. Start Docker, or install it. As root on "
                "Debian or Ubuntu this command does that itself. The provider `local` (Linux, root) needs no Docker."
            )
        if missing(PACKAGES):
            ensure_packages(PACKAGES, report)
            if DockerClient().answers():
                report("the package of Docker started its daemon: using that")
                return DockerClient()
        if not is_present(CLIENT.provides):
            ensure_packages([CLIENT], report)
        self._start()
        report(f"a Docker daemon of our own answers (log: {self.logs / 'dockerd.log'})")
        return self.client()

    def _start(self) -> None:
        if strangers := network.links_in(NETWORK):
            raise MachineError(f"kind's node needs {NETWORK}, which {', '.join(strangers)} of this machine uses")
        self.root.mkdir(parents=True, mode=0o700)
        kernel.remember(self.kernel_settings, names=kernel.CHANGED_IN_CONTAINER)
        self.absent.write_text(json.dumps([str(path) for path in FIXED_PLACES if not path.exists()]))
        runtime = None
        if lacks_sys_resource(Path("/proc/self/status").read_text()):
            runtime = self.root / RUNTIME
            runtime.write_text(runtime_program(os.path.realpath(sys.executable)))
            runtime.chmod(0o755)
        dockerd, containerd = _program("dockerd"), _program("containerd")
        version = subprocess.run([dockerd, "--version"], capture_output=True, text=True, check=True).stdout
        configuration = self.root / "daemon.json"
        configuration.write_text(settings(self.root, major_version(version), runtime))
        containerd_configuration = self.root / "containerd.toml"
        containerd_configuration.write_text(containerd_settings(self.root))
        running: dict[str, subprocess.Popen[bytes]] = {}
        for component, answers in (
            (
                Component("containerd", (containerd, f"--config={containerd_configuration}")),
                lambda: listens(self.root / "containerd.sock"),
            ),
            (Component("dockerd", (dockerd, f"--config-file={configuration}")), self.client().answers),
        ):
            running[component.name] = start(component, self.logs / f"{component.name}.log", mark=self.root)
            wait_until(f"{component.name} answers", answers, DEADLINE, running, self.logs)
        self._make_network()

    def _make_network(self) -> None:
        """Make the network that kind would make, on a bridge with a name of ours, by which it is found again."""
        where = ["--subnet", str(NETWORK), "--opt", f"com.docker.network.bridge.name={BRIDGE}"]
        made = self.client().run("network", "create", "--driver", "bridge", *where, KIND_NETWORK)
        if made.returncode != 0:
            raise StartError(f"Docker could not make a network for kind: {last_words(made.stderr)}")

    def residue(self) -> list[str]:
        """What is there of it, each item in words; empty when nothing is."""
        return [
            *map(str, find_cluster_processes(self.root)),
            *(f"mount {point}" for point in mounts_below(self.root, MOUNTINFO.read_text())),
            *([f"interface {BRIDGE}"] if BRIDGE in network.links() else []),
            *(f"cgroup {path}" for path in cgroups.groups_named(CGROUP)),
            *([f"folder {self.root}"] if self.root.exists() else []),
        ]

    def remove(self) -> None:
        """End it, whatever state it is in, and put back what it changed on this machine.

        Raises:
            ResidueError: something of it is left; the text names every item.

        """
        if survivors := kill_cluster_processes(self.root):
            raise ResidueError("cannot be killed: " + "; ".join(map(str, survivors)))
        refused = kernel.restore(self.kernel_settings)
        absent = [Path(name) for name in json.loads(self.absent.read_text())] if self.absent.exists() else []
        remove_folder(self.root)
        for path in deserted_shim_sockets():
            path.unlink(missing_ok=True)
        for folder in (SHIM_SOCKETS, SHIM_SOCKETS.parent):
            remove_empty(folder)
        for place in absent:
            _remove_place(place)
        # The kernel takes network namespaces and control groups down in its own time.
        end = time.monotonic() + SETTLE
        while remaining := self.residue():
            if time.monotonic() > end:
                raise ResidueError("left after ending Docker:\n" + "\n".join(f"  {item}" for item in remaining))
            network.delete_link(BRIDGE)
            for group in cgroups.groups_named(CGROUP):
                cgroups.remove_group(group)
            time.sleep(POLL)
        if refused:
            raise ResidueError(f"kernel settings that could not be put back: {' '.join(refused)}")


def can_run(system: str, user: int, lacks_packages: bool, has_apt: bool) -> bool:
    """Whether a daemon of our own can be had: on Linux, as root, with Docker installed or to be had by apt-get."""
    return system == "Linux" and user == 0 and (has_apt or not lacks_packages)


def settings(root: Path, version: int, runtime: Path | None) -> str:
    """The daemon's settings. All paths are in its folder; no file of the machine's own Docker is read.

    Args:
        root: its folder.
        version: the major version of Docker.
        runtime: what runs containers in place of runc, if anything does.

    """
    values: dict[str, object] = {
        "data-root": f"{root}/data",
        "exec-root": f"{root}/run",
        "pidfile": f"{root}/docker.pid",
        "hosts": [f"unix://{root}/docker.sock"],
        "containerd": f"{root}/containerd.sock",
        "storage-driver": "overlay2",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/{CGROUP}",
        # kind has a network of its own.
        "bridge": "none",
        "iptables": False,
        "ip6tables": False,
        "ip-forward": False,
        "ip-masq": False,
        # There is no name server: nothing outside could be reached anyhow.
        "dns": ["127.0.0.1"],
    }
    if version < HAS_NO_OOM_SETTING:
        # By default it asks for -500, which needs CAP_SYS_RESOURCE.
        values["oom-score-adjust"] = 0
    if runtime is not None:
        values |= {"runtimes": {RUNTIME: {"path": str(runtime)}}, "default-runtime": RUNTIME}
    return json.dumps(values, indent=2) + "\n"


def containerd_settings(root: Path) -> str:
    """A containerd for this daemon alone: without it, Docker takes the machine's, or starts one with other places."""
    return f"""version = 2
root = "{root}/containerd"
state = "{root}/containerd-run"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
]

[grpc]
address = "{root}/containerd.sock"
"""


def client_environ(socket: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """An environment in which docker and kind reach the daemon behind this socket, whatever else is set.

    The client of Debian's package comes first: a newer one need not speak with the package's daemon.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if name not in ("DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH", "DOCKER_API_VERSION")
    }
    path = os.pathsep.join(["/usr/bin", environ.get("PATH", os.defpath)])
    return {**kept, "DOCKER_HOST": f"unix://{socket}", "PATH": path}


def lacks_sys_resource(status: str) -> bool:
    """Whether a process with this ``/proc/self/status`` cannot have CAP_SYS_RESOURCE, nor what it starts."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and not int(found[1], 16) >> SYS_RESOURCE & 1


def runtime_program(python: str) -> str:
    """The text of the program that stands before runc."""
    # Neither site-packages nor the environment: it runs for every container and every command in one.
    return f"#!{python} -ISE\n{inspect.getsource(limited_runc)}"


def major_version(text: str) -> int:
    """The major version in ``Docker version 20.10.24+dfsg1, build 297e128``; 0 where there is none."""
    found = re.search(r"version (\d+)\.", text)
    return int(found[1]) if found else 0


def _program(name: str) -> str:
    found = shutil.which(name, path=system_path())
    if found is None:
        raise MachineError(f"there is no {name} on this machine")
    return os.path.realpath(found)


def _remove_place(place: Path) -> None:
    if place.is_dir():
        for path in sorted(place.rglob("*"), reverse=True):
            remove_empty(path) if path.is_dir() else path.unlink(missing_ok=True)
        remove_empty(place)
    else:
        place.unlink(missing_ok=True)

"""The local provider: a one-node cluster of host processes, for Linux without Docker.

``plan`` (pure) says which files and processes make up the cluster; ``LocalProvider`` carries it out, in the
order the parts need each other, and knows a finished cluster by the plan's fingerprint. Whatever is not
a healthy cluster of exactly this plan is removed by ``residue`` before anything is started; this module
deletes nothing itself.
"""

import datetime
import hashlib
import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster import components, configuration, kernel, network
from e2e_cluster.archives import architecture, read_archive, write_single_file_image
from e2e_cluster.binaries import Binaries, ensure_binaries, locked
from e2e_cluster.certificates import ADMINISTRATORS, Authority, Pair
from e2e_cluster.components import ApiServerKeys, Component
from e2e_cluster.errors import ClusterError, MachineError, StartError
from e2e_cluster.packages import CLUSTER_PACKAGES, ensure_packages, system_path
from e2e_cluster.pins import LOCAL
from e2e_cluster.places import Folders
from e2e_cluster.probes import api_is_ready, get, listens, node_is_usable, resolves, tls_context
from e2e_cluster.processes import find_cluster_processes, kill_process, start, wait_until
from e2e_cluster.progress import Report, silent
from e2e_cluster.provider import Status, save_image
from e2e_cluster.residue import find_residue, remove_residue

PORT = 6443
SERVER = f"https://{network.NODE}:{PORT}"
DEADLINE = 60.0
WELL_KNOWN_NAME = f"kubernetes.default.svc.{components.CLUSTER_DOMAIN}"


@dataclass(frozen=True)
class Plan:
    """A cluster on paper: its configuration files and its processes by name."""

    files: Mapping[Path, str]
    processes: Mapping[str, Component]

    @property
    def fingerprint(self) -> str:
        """Differs whenever a binary's pin, an argument or a configuration file differs."""
        parts = {
            "files": {str(path): text for path, text in self.files.items()},
            "processes": {name: process.argv for name, process in self.processes.items()},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def plan(folders: Folders, binaries: Binaries, containerd: Path) -> Plan:
    """The cluster as it has to be."""
    keys = folders.certificates
    config = folders.configuration
    socket = folders.root / "etcd.sock"

    def pair(name: str) -> Pair:
        return Pair(keys / f"{name}.crt", keys / f"{name}.key")

    def kubeconfig(name: str) -> Path:
        return keys / f"{name}.kubeconfig"

    accounts = Pair(keys / "service-accounts.pub", keys / "service-accounts.key")
    authority = pair("ca").certificate
    kubelet_server = pair("kubelet-server")
    files = {
        config / "containerd.toml": configuration.containerd(folders),
        folders.cni / "conf" / "10-patio.conflist": configuration.cni(folders),
        config / "kubelet.json": configuration.kubelet(
            folders, authority, kubelet_server.certificate, kubelet_server.key
        ),
        config / "resolv.conf": configuration.resolv_conf(),
        config / "kube-proxy.json": configuration.kube_proxy(kubeconfig("kube-proxy")),
        config / "Corefile": configuration.corefile(kubeconfig("coredns")),
        config / "bootstrap.json": configuration.bootstrap_objects(),
    }
    processes = (
        components.etcd(binaries["etcd"], folders.etcd, socket),
        components.apiserver(
            binaries["kube-apiserver"],
            etcd_socket=socket,
            keys=ApiServerKeys(
                authority, pair("apiserver"), accounts, pair("apiserver-kubelet"), pair(components.FRONT_PROXY)
            ),
            address=network.NODE,
            port=PORT,
            service_range=network.SERVICES,
            extra={"enable-admission-plugins": "NodeRestriction"},
        ),
        components.controller_manager(
            binaries["kube-controller-manager"],
            kubeconfig=kubeconfig("controller-manager"),
            address=network.NODE,
            authority=authority,
            service_accounts=accounts,
            volume_plugins=folders.volume_plugins,
        ),
        components.scheduler(binaries["kube-scheduler"], kubeconfig=kubeconfig("scheduler"), address=network.NODE),
        components.containerd(containerd, config=config / "containerd.toml"),
        components.kubelet(
            binaries["kubelet"],
            config=config / "kubelet.json",
            kubeconfig=kubeconfig("kubelet"),
            root=folders.kubelet,
            node=configuration.NODE_NAME,
            address=network.NODE,
        ),
        components.kube_proxy(binaries["kube-proxy"], config=config / "kube-proxy.json"),
        components.coredns(binaries["coredns"], config=config / "Corefile"),
    )
    return Plan(files, {process.name: process for process in processes})


class LocalProvider:
    """The cluster of this machine; one at a time, whoever starts it."""

    name = "local"

    def __init__(self, report: Report = silent, folders: Folders | None = None) -> None:
        self._report = report
        self._folders = folders or Folders()

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._folders.kubeconfig

    @property
    def machine_address(self) -> str:
        """The node's address: the node is this machine."""
        return network.NODE

    def tools(self) -> Binaries:
        """Install packages and build binaries."""
        ensure_packages(CLUSTER_PACKAGES, self._report)
        return ensure_binaries(LOCAL, self._report)

    def up(self) -> None:
        """Reuse a healthy cluster of the same plan, or clear up and start one."""
        _require_root()
        binaries = self.tools()
        with self._lock():
            wanted = self._plan(binaries)
            if self._is_usable(wanted, binaries):
                self._report(f"the cluster is up already: KUBECONFIG={self.kubeconfig}")
                return
            if leftovers := find_residue(self._folders):
                self._report(f"clearing what an earlier run left: {_summary(leftovers)}")
                remove_residue(self._folders)
            self._start(wanted, binaries)

    def down(self) -> None:
        """Remove the cluster, and whatever is left of one."""
        _require_root()
        with self._lock():
            if find_residue(self._folders):
                remove_residue(self._folders)
                self._report("the cluster is gone, nothing of it is left")
            else:
                self._report("no cluster, and nothing left of one")

    def load_images(self, images: Sequence[str]) -> None:
        """Import into the node's containerd what it does not have yet."""
        _require_root()
        with tempfile.TemporaryDirectory(prefix="patio-image-") as scratch:
            for number, image in enumerate(images):
                archive = Path(image)
                if not archive.is_file():
                    archive = Path(scratch) / f"{number}.tar"
                    save_image(image, archive, self._report)
                self._import(archive)

    def restart_kubelet(self) -> None:
        """Kill the kubelet's process and start another."""
        _require_root()
        binaries = self.tools()
        with self._lock():
            wanted = self._plan(binaries)
            component = wanted.processes["kubelet"]
            kill_process(self._running(wanted)["kubelet"], self._folders.root)
            log = self._folders.logs / "kubelet.log"
            running = {"kubelet": start(component, log, mark=self._folders.root)}
            wait_until(
                "the node is ready", lambda: self._node_is_usable(binaries), DEADLINE, running, self._folders.logs
            )

    def status(self) -> Status:
        """The processes, the node, and what else there is."""
        _require_root()
        found = find_residue(self._folders)
        if not found:
            return Status(False, ("there is no local cluster, and nothing left of one",))
        binaries = ensure_binaries(LOCAL, self._report)
        wanted = self._plan(binaries)
        running = self._running(wanted)
        lines = [
            f"{name:25} {f'process {running[name]}' if name in running else 'NOT RUNNING':18} "
            f"{self._folders.logs / f'{name}.log'}"
            for name in wanted.processes
        ]
        usable = self._is_usable(wanted, binaries)
        lines.append(f"{'usable' if usable else 'NOT USABLE'}; KUBECONFIG={self.kubeconfig}")
        return Status(usable, tuple(lines))

    def _lock(self) -> AbstractContextManager[None]:
        # The folder above the state's: the same for every user and cache, and never removed by `down`.
        return locked(self._folders.root.parent, self._report, "another run changes the cluster: waiting for it")

    def _plan(self, binaries: Binaries) -> Plan:
        containerd = shutil.which("containerd", path=system_path())
        if containerd is None:
            raise MachineError("there is no containerd on this machine")
        return plan(self._folders, binaries, Path(containerd).resolve())

    def _running(self, wanted: Plan) -> dict[str, int]:
        pids = {process.executable: process.pid for process in find_cluster_processes(self._folders.root)}
        by_name = {name: pids.get(process.argv[0]) for name, process in wanted.processes.items()}
        return {name: pid for name, pid in by_name.items() if pid is not None}

    def _is_usable(self, wanted: Plan, binaries: Binaries) -> bool:
        mark = self._folders.ready_mark
        return (
            mark.exists()
            and mark.read_text() == wanted.fingerprint
            and self._running(wanted).keys() == wanted.processes.keys()
            and listens(self._folders.containerd_socket)
            and self._node_is_usable(binaries)
            and resolves(network.DNS_SERVICE, WELL_KNOWN_NAME)
        )

    def _node_is_usable(self, binaries: Binaries) -> bool:
        node = get(binaries.kubectl, self.kubeconfig, "node", configuration.NODE_NAME)
        return node_is_usable(node)

    def _start(self, wanted: Plan, binaries: Binaries) -> None:
        folders = self._folders
        folders.root.mkdir(parents=True, mode=0o700)
        kernel.remember(folders.kernel_settings)
        kernel.enable_forwarding()
        network.raise_network()
        admin = self._write_certificates()
        for path, text in wanted.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        running: dict[str, subprocess.Popen[bytes]] = {}

        def launch(*names: str) -> None:
            for name in names:
                running[name] = start(wanted.processes[name], folders.logs / f"{name}.log", mark=folders.root)

        def wait(what: str, condition: Callable[[], bool]) -> None:
            wait_until(what, condition, DEADLINE, running, folders.logs)
            self._report(what)

        launch("etcd", "containerd")
        wait("etcd answers", lambda: listens(folders.root / "etcd.sock"))
        launch("kube-apiserver")
        wait("containerd answers", lambda: listens(folders.containerd_socket))
        self._import_pause(binaries["pause"])
        context = tls_context(folders.certificates / "ca.crt", admin)
        wait("the API server is ready", lambda: api_is_ready(SERVER, context))
        launch("kubelet", "kube-controller-manager", "kube-scheduler", "kube-proxy")
        self._kubectl(binaries, "apply", "-f", str(folders.configuration / "bootstrap.json"))
        launch("coredns")
        wait("the node is ready", lambda: self._node_is_usable(binaries))
        wait(
            "cluster DNS answers through its Service",
            lambda: resolves(network.DNS_SERVICE, WELL_KNOWN_NAME),
        )
        wait(
            "pods can be made",
            lambda: bool(get(binaries.kubectl, self.kubeconfig, "serviceaccount", "default")),
        )
        folders.ready_mark.write_text(wanted.fingerprint)
        self._report(f"the cluster is up: KUBECONFIG={self.kubeconfig}")

    def _write_certificates(self) -> Pair:
        folder = self._folders.certificates
        authority = Authority(folder, datetime.datetime.now(datetime.UTC))
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", WELL_KNOWN_NAME]
        hosts = [*names, network.NODE, network.KUBERNETES_SERVICE]
        authority.issue_server("apiserver", "kube-apiserver", hosts)
        node = configuration.NODE_NAME
        authority.issue_server("kubelet-server", f"system:node:{node}", [node, network.NODE])
        authority.issue_client("apiserver-kubelet", "kube-apiserver-kubelet-client", [ADMINISTRATORS])
        authority.issue_client(components.FRONT_PROXY, components.FRONT_PROXY)
        authority.make_signing_key("service-accounts")
        for file, user, groups in (
            ("controller-manager", "system:kube-controller-manager", ()),
            ("scheduler", "system:kube-scheduler", ()),
            ("kubelet", f"system:node:{node}", ("system:nodes",)),
            ("kube-proxy", "system:kube-proxy", ()),
            ("coredns", "system:coredns", ()),
        ):
            authority.write_kubeconfig(
                folder / f"{file}.kubeconfig", SERVER, authority.issue_client(file, user, groups)
            )
        admin = authority.issue_client("admin", "patio-cluster-admin", [ADMINISTRATORS])
        authority.write_kubeconfig(self.kubeconfig, SERVER, admin)
        return admin

    def _import_pause(self, program: Path) -> None:
        with tempfile.TemporaryDirectory(prefix="patio-image-") as scratch:
            archive = Path(scratch) / "pause.tar"
            write_single_file_image(
                archive, name=configuration.PAUSE_IMAGE, program=program, architecture=architecture()
            )
            self._import(archive)

    def _import(self, archive: Path) -> None:
        if not listens(self._folders.containerd_socket):
            raise ClusterError("there is no local cluster to load images into: run `up` first")
        images = read_archive(archive)
        records = {self._image_record(image.name): image.identity for image in images}
        spoken = ", ".join(image.name for image in images)
        if all(file.exists() and file.read_text() == identity for file, identity in records.items()):
            self._report(f"{spoken}: on the node already")
            return
        ctr = ["ctr", "--address", str(self._folders.containerd_socket), "--namespace", "k8s.io"]
        done = subprocess.run(
            [*ctr, "images", "import", str(archive.resolve())],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": system_path()},
        )
        if done.returncode != 0:
            raise ClusterError(f"importing {archive} failed: {done.stderr.strip()}")
        for file, identity in records.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(identity)
        self._report(f"{spoken}: loaded")

    def _image_record(self, image: str) -> Path:
        return self._folders.images / hashlib.sha256(image.encode()).hexdigest()

    def _kubectl(self, binaries: Binaries, *arguments: str) -> None:
        done = subprocess.run(
            [str(binaries.kubectl), f"--kubeconfig={self.kubeconfig}", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StartError(f"`kubectl {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _require_root() -> None:
    if platform.system() != "Linux":
        raise MachineError("the local cluster runs on Linux only; elsewhere, install Docker and use kind")
    if os.geteuid() != 0:
        raise MachineError(
            "the local cluster needs root (it mounts, routes and runs containers): run this with sudo, "
            "or install Docker and use kind"
        )


def _summary(leftovers: Sequence[str]) -> str:
    shown = "; ".join(item[:60] for item in leftovers[:4])
    return shown + (f"; and {len(leftovers) - 4} more" if len(leftovers) > 4 else "")

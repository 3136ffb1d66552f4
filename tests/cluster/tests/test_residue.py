"""A local cluster's end, after every kind of death: it makes and removes clusters of its own.

Run it while no cluster is up; with one up it refuses, since it would take it away.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e_cluster import clients
from e2e_cluster.configuration import PAUSE_IMAGE
from e2e_cluster.kernel import CHANGED, SYSCTLS
from e2e_cluster.places import Folders
from e2e_cluster.processes import Found, find_cluster_processes
from e2e_cluster.residue import CNI_RESULTS, DEVICE_PLUGINS, KUBELET_LINKS, SHIM_SOCKETS, find_residue

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

FOLDERS = Folders()
WELL_KNOWN = (
    SHIM_SOCKETS.parent,
    CNI_RESULTS.parent,
    DEVICE_PLUGINS.parent,
    KUBELET_LINKS,
    Path("/opt/containerd"),
    Path("/usr/libexec/kubernetes"),
    Path("/run/netns"),
    Path("/sys/fs/cgroup/memory/k8s.io"),
    Path("/sys/fs/cgroup/k8s.io"),
)
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "held"},
    "spec": {
        "containers": [{"name": "pause", "image": PAUSE_IMAGE, "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {"medium": "Memory"}}],
    },
}


def _cluster(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "e2e_cluster", "--provider", "local", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _succeeds(*arguments: str) -> str:
    done = _cluster(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stderr


def _kubectl(*arguments: str, stdin: str | None = None) -> str:
    command = [str(clients().kubectl), f"--kubeconfig={FOLDERS.kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _run_a_pod() -> None:
    _kubectl("apply", "-f", "-", stdin=json.dumps(POD))
    _kubectl("wait", "pod/held", "--for=condition=Ready", "--timeout=60s")


def cluster_processes(matches: Callable[[Found], bool]) -> list[Found]:
    return [process for process in find_cluster_processes(FOLDERS.root) if matches(process)]


def _named(*names: str) -> Callable[[Found], bool]:
    return lambda process: Path(process.executable).name in names


def _kill(processes: list[Found]) -> None:
    assert processes
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while {process.pid for process in processes} & {process.pid for process in find_cluster_processes(FOLDERS.root)}:
        assert time.monotonic() < deadline, f"not dead: {processes}"
        time.sleep(0.05)


def _machine() -> dict[str, str]:
    """What a cluster changes on a machine, apart from what is recognisably its own."""
    settings = {name: (SYSCTLS / name).read_text() for name in CHANGED if (SYSCTLS / name).exists()}
    return settings | {str(path): str(path.exists()) for path in WELL_KNOWN}


@pytest.fixture(autouse=True)
def no_cluster_before_or_after() -> Iterator[None]:
    if os.geteuid() != 0:
        pytest.skip("the local cluster needs root")
    if FOLDERS.ready_mark.exists():
        pytest.skip("a cluster is up: these tests would remove it; run `down` first")
    _succeeds("down")
    before = _machine()
    yield
    _succeeds("down")
    assert find_residue(FOLDERS) == []
    assert _machine() == before


def test_healthy_cluster_is_reused_and_goes_without_a_trace() -> None:
    _succeeds("up")
    _run_a_pod()
    before = {process.pid for process in find_cluster_processes(FOLDERS.root)}
    assert "up already" in _succeeds("up")
    assert {process.pid for process in find_cluster_processes(FOLDERS.root)} == before
    assert _cluster("status").returncode == 0


def test_up_replaces_cluster_with_dead_runtime_and_half_a_state() -> None:
    _succeeds("up")
    _run_a_pod()
    _kill(cluster_processes(_named("containerd", "kubelet")))
    _kill(cluster_processes(lambda process: "shim" in process.executable))
    # What ran in containers is ours though no parent of it is left.
    assert cluster_processes(_named("pause"))
    for path in (FOLDERS.configuration, FOLDERS.certificates):
        shutil.rmtree(path)
    assert _cluster("status").returncode == 1
    assert "clearing what an earlier run left" in _succeeds("up")
    _run_a_pod()
    _kill(find_cluster_processes(FOLDERS.root))


def test_down_removes_what_an_up_that_was_killed_left() -> None:
    command = [sys.executable, "-m", "e2e_cluster", "--provider", "local", "up"]
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if "the API server is ready" in line:
            break
    running.kill()
    running.wait()
    running.stderr.close()
    assert cluster_processes(_named("kube-apiserver"))
    assert _cluster("status").returncode == 1


def test_down_removes_interfaces_and_tables_without_the_state() -> None:
    for command in (
        ["ip", "link", "add", "patio0", "type", "bridge"],
        ["nft", "add", "table", "ip", "kube-proxy"],
        ["nft", "add", "table", "inet", "patio-cluster"],
    ):
        subprocess.run(command, check=True)
    assert len(find_residue(FOLDERS)) == 3
    assert "nothing of it is left" in _succeeds("down")

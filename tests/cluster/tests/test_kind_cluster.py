"""A kind cluster from beginning to end, and what it leaves on the machine. `make test-kind` runs it.

Where no Docker daemon answers it runs in one of our own, as `PROVIDER=kind` does everywhere.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e_cluster import clients
from e2e_cluster.archives import architecture, write_single_file_image
from e2e_cluster.docker_client import DockerClient
from e2e_cluster.docker_daemon import FIXED_PLACES, KIND_NETWORK, OwnDaemon
from e2e_cluster.kernel import CHANGED_IN_CONTAINER, SYSCTLS
from e2e_cluster.kind import NODE, KindProvider
from e2e_cluster.processes import find_cluster_processes, kill_process
from e2e_cluster.provider import VARIABLE

DEADLINE = 240.0

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

OWN = OwnDaemon()
IMAGE = "ghcr.io/patio/loaded:1"


def machine() -> dict[str, object]:
    """What a node changes on this machine, and what Docker leaves on it."""
    settings = {name: (SYSCTLS / name).read_text() for name in CHANGED_IN_CONTAINER if (SYSCTLS / name).exists()}
    places: dict[str, object] = {str(path): path.exists() for path in FIXED_PLACES}
    return settings | places | {"network": DockerClient().succeeds("network", "inspect", KIND_NETWORK)}


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """What the provider reports."""
    return []


@pytest.fixture(scope="module")
def provider(lines: list[str]) -> Iterator[KindProvider]:
    """A cluster that is up; when it is down, the machine is as it was."""
    if os.environ.get(VARIABLE) != "kind":
        pytest.skip("only with PROVIDER=kind: a machine has one provider that its other tests use")
    made = KindProvider(lines.append)
    if made.status().usable:
        pytest.skip("a kind cluster is up: these tests would remove it; run `down` first")
    made.down()
    before = machine()
    made.up()
    yield made
    made.down()
    assert OWN.residue() == []
    assert machine() == before
    assert not made.kubeconfig.exists()


def kubectl(provider: KindProvider, *arguments: str) -> str:
    command = [str(clients().kubectl), f"--kubeconfig={provider.kubeconfig}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def node_uid(provider: KindProvider) -> str:
    return kubectl(provider, "get", "node", NODE, "-o", "jsonpath={.metadata.uid}")


def archive_of(program: bytes, folder: Path) -> Path:
    (folder / "program").write_bytes(program)
    archive = folder / "image.tar"
    write_single_file_image(archive, name=IMAGE, program=folder / "program", architecture=architecture())
    return archive


def test_cluster_that_is_up_is_reused(provider: KindProvider, lines: list[str]) -> None:
    before = node_uid(provider)
    provider.up()
    assert lines[-1].startswith("the cluster is up already")
    assert node_uid(provider) == before
    assert provider.status().usable


def test_lost_kubeconfig_is_fetched_and_the_cluster_kept(provider: KindProvider) -> None:
    before = node_uid(provider)
    provider.kubeconfig.unlink()
    provider.up()
    assert node_uid(provider) == before


def test_all_pods_of_the_control_plane_become_ready(provider: KindProvider) -> None:
    parts = {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "coredns"}

    def ready() -> set[str]:
        pods = json.loads(kubectl(provider, "-n", "kube-system", "get", "pods", "-o", "json"))["items"]
        conditions = {
            pod["metadata"]["name"]: {each["type"]: each["status"] for each in pod["status"].get("conditions", ())}
            for pod in pods
        }
        names = [name for name, found in conditions.items() if found.get("Ready") == "True"]
        return {part for part in parts if any(name.startswith(part) for name in names)}

    deadline = time.monotonic() + DEADLINE
    while (seen := ready()) != parts:
        assert time.monotonic() < deadline, parts - seen
        time.sleep(1)


def test_image_on_the_node_is_loaded_again_only_if_changed(
    provider: KindProvider, lines: list[str], tmp_path: Path
) -> None:
    reported = []
    for program in (b"one", b"one", b"two"):
        provider.load_images([str(archive_of(program, tmp_path))])
        reported.append(lines[-1])
    assert reported == [f"{IMAGE}: loaded", f"{IMAGE}: on the node already", f"{IMAGE}: loaded"]


def test_killed_kubelet_is_another_one_when_the_call_returns(provider: KindProvider) -> None:
    def kubelet() -> str:
        docker = OWN.client() if OWN.exists() else DockerClient()
        return docker.run("exec", NODE, "pidof", "kubelet").stdout.strip()

    before = kubelet()
    assert before
    provider.restart_kubelet()
    assert kubelet() not in ("", before)
    assert provider.status().usable


def test_address_of_this_machine_is_the_gateway_of_the_node(provider: KindProvider) -> None:
    node = json.loads(kubectl(provider, "get", "node", NODE, "-o", "json"))
    (internal,) = [found["address"] for found in node["status"]["addresses"] if found["type"] == "InternalIP"]
    assert provider.machine_address.rpartition(".")[0] == internal.rpartition(".")[0]


def test_daemon_of_ours_that_died_is_replaced_by_up(provider: KindProvider, lines: list[str]) -> None:
    if not OWN.exists():
        pytest.skip("the daemon is the machine's")
    before = node_uid(provider)
    for process in find_cluster_processes(OWN.root):
        if Path(process.executable).name == "dockerd":
            kill_process(process.pid, OWN.root)
    provider.up()
    assert any(line.startswith("clearing what a Docker daemon of our own left") for line in lines)
    assert node_uid(provider) != before

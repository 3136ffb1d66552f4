"""The Docker daemon of our own, on paper: its settings, who may have one, and what a machine lacks."""

import json
from pathlib import Path

import pytest

from e2e_cluster import docker_daemon, network
from e2e_cluster.docker_daemon import (
    OwnDaemon,
    can_run,
    client_environ,
    containerd_settings,
    lacks_sys_resource,
    major_version,
    settings,
)
from e2e_cluster.network import links_of

ROOT = Path("/s")


def test_every_path_of_the_daemon_is_in_its_folder() -> None:
    values = json.loads(settings(ROOT, 20, ROOT / "limited-runc"))
    paths = [value for value in map(str, values.values()) if value.startswith(("/", "unix:"))]
    assert [path for path in paths if "/s/" not in path] == [f"/{docker_daemon.CGROUP}"]
    assert values["hosts"] == ["unix:///s/docker.sock"]
    assert '"/s/containerd.sock"' in containerd_settings(ROOT)


def test_nothing_leaves_the_machine_through_the_daemon() -> None:
    values = json.loads(settings(ROOT, 20, None))
    assert [values[name] for name in ("iptables", "ip6tables", "ip-forward", "ip-masq")] == [False] * 4
    assert values["bridge"] == "none"


def test_runtime_is_another_one_only_if_there_is_one() -> None:
    assert "default-runtime" not in json.loads(settings(ROOT, 20, None))
    values = json.loads(settings(ROOT, 20, ROOT / "limited-runc"))
    assert values["runtimes"][values["default-runtime"]] == {"path": "/s/limited-runc"}


@pytest.mark.parametrize(("version", "known"), [(20, True), (24, True), (25, False), (28, False)])
def test_oom_score_is_set_only_where_docker_knows_it(version: int, known: bool) -> None:
    assert ("oom-score-adjust" in json.loads(settings(ROOT, version, None))) is known


@pytest.mark.parametrize(
    ("text", "version"), [("Docker version 20.10.24+dfsg1, build 297e128", 20), ("Docker version 28.2.2", 28), ("?", 0)]
)
def test_major_version_is_read_from_what_dockerd_prints(text: str, version: int) -> None:
    assert major_version(text) == version


@pytest.mark.parametrize(
    ("bounding", "lacks"), [("000001ffffffffff", False), ("000001fffeffffff", True), ("0000000000000000", True)]
)
def test_capability_is_looked_up_in_the_bounding_set(bounding: str, lacks: bool) -> None:
    assert lacks_sys_resource(f"Name:\tx\nCapEff:\t000001ffffffffff\nCapBnd:\t{bounding}\n") is lacks


def test_clients_reach_the_own_daemon_whatever_else_is_set() -> None:
    others = {"DOCKER_CONTEXT": "desktop", "DOCKER_HOST": "tcp://elsewhere", "DOCKER_TLS_VERIFY": "1"}
    environ = client_environ(Path("/s/docker.sock"), {"PATH": "/opt/bin", "HOME": "/root", **others})
    assert environ == {"PATH": "/usr/bin:/opt/bin", "HOME": "/root", "DOCKER_HOST": "unix:///s/docker.sock"}


@pytest.mark.parametrize(
    ("system", "user", "lacks_packages", "has_apt", "can"),
    [
        ("Linux", 0, True, True, True),
        ("Linux", 0, False, False, True),
        ("Linux", 0, True, False, False),
        ("Linux", 1000, False, True, False),
        ("Darwin", 0, False, False, False),
    ],
)
def test_own_daemon_needs_linux_root_and_packages(
    system: str, user: int, lacks_packages: bool, has_apt: bool, can: bool
) -> None:
    assert can_run(system, user, lacks_packages, has_apt) is can


def test_socket_of_the_daemon_fits_into_the_kernel_limit() -> None:
    assert len(str(OwnDaemon().root / "containerd.sock.ttrpc")) < 100


def test_ranges_of_kind_and_of_the_local_cluster_are_apart() -> None:
    assert not docker_daemon.NETWORK.overlaps(network.RANGE)


def test_interfaces_are_found_by_an_address_in_the_range() -> None:
    links = [
        {"ifname": name, "addr_info": [{"family": "inet", "local": address}]}
        for name, address in (("eth0", "10.214.0.9"), ("eth1", "10.215.0.1"))
    ]
    assert links_of(json.dumps(links), docker_daemon.NETWORK) == ["eth0"]


def test_folder_that_is_not_there_leaves_nothing_to_remove(tmp_path: Path) -> None:
    daemon = OwnDaemon(tmp_path / "docker")
    assert not daemon.exists()
    assert [item for item in daemon.residue() if str(tmp_path) in item] == []

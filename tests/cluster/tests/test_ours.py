"""What is recognised as a cluster's own, and what is left alone."""

import json
from pathlib import Path

import pytest

from e2e_cluster.cgroups import deserted_cgroups, groups_named, remove_group
from e2e_cluster.kernel import CHANGED_IN_CONTAINER, remember, restore
from e2e_cluster.mounts import mounts_below, parse_mounts
from e2e_cluster.network import own_links, parse_tables, strangers_in_range
from e2e_cluster.packages import Package, missing
from e2e_cluster.processes import MARK, find_cluster_processes, is_marked, lives_in
from e2e_cluster.residue import our_cni_results

STATE = Path("/var/lib/patio-cluster")
HOST_ROOT = "29 1 254:0 / / rw,relatime - ext4 /dev/vda rw"
LAYERS = f"lowerdir={STATE}/containerd/root/1/fs,upperdir={STATE}/containerd/root/2/fs"
CONTAINER_ROOT = f"80 70 0:50 / / ro,relatime - overlay overlay ro,{LAYERS}"
HOST_VIEW = f"80 29 0:50 / {STATE}/containerd/state/x/rootfs rw - overlay overlay rw,{LAYERS}"


def test_mark_must_be_for_this_state_folder() -> None:
    assert is_marked(f"PATH=/bin\0{MARK}={STATE}\0".encode(), STATE)
    assert not is_marked(f"PATH=/bin\0{MARK}={STATE}-other\0".encode(), STATE)
    assert not is_marked(b"", STATE)


def test_only_processes_in_cluster_containers_are_the_clusters() -> None:
    assert lives_in(CONTAINER_ROOT, STATE)
    assert not lives_in(f"{HOST_ROOT}\n{HOST_VIEW}", STATE)


def _process(proc: Path, pid: int, *, environ: str = "", mounts: str = HOST_ROOT) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "environ").write_text(environ)
    (folder / "mountinfo").write_text(mounts)
    (folder / "cmdline").write_bytes(b"/bin/thing\0--flag\0")
    (folder / "exe").symlink_to("/bin/thing")


def test_processes_are_found_by_what_the_kernel_shows_now(tmp_path: Path) -> None:
    _process(tmp_path, 10, environ="PATH=/bin\0")
    _process(tmp_path, 11, environ=f"{MARK}={STATE}\0")
    _process(tmp_path, 12, mounts=CONTAINER_ROOT)
    _process(tmp_path, 13)
    (tmp_path / "13" / "environ").unlink()
    (tmp_path / "self").mkdir()
    found = find_cluster_processes(STATE, tmp_path)
    assert sorted(process.pid for process in found) == [11, 12]
    assert str(found[0]).endswith("(/bin/thing --flag)")


def test_mounts_below_a_folder_come_in_the_order_of_unmounting() -> None:
    lines = [
        HOST_ROOT,
        f"90 29 0:5 / {STATE}/a rw - tmpfs tmpfs rw",
        f"91 90 0:6 / {STATE}/a/with\\040space rw - tmpfs tmpfs rw",
        f"92 29 0:7 / {STATE}-other/b rw - tmpfs tmpfs rw",
    ]
    assert mounts_below(STATE, "\n".join(lines)) == [f"{STATE}/a/with space", f"{STATE}/a"]


def test_optional_fields_of_mountinfo_do_not_shift_the_options() -> None:
    line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue"
    (mount,) = parse_mounts(line)
    assert (mount.point, mount.options) == ("/mnt2", "rw,errors=continue")


def _link(name: str, address: str, kind: str | None = None) -> dict[str, object]:
    link: dict[str, object] = {
        "ifname": name,
        "addr_info": [{"family": "inet", "local": address}, {"family": "inet6", "local": "fe80::1"}],
    }
    return link | ({"linkinfo": {"info_kind": kind}} if kind else {})


def test_only_own_interface_and_pod_links_are_the_clusters() -> None:
    links = [
        _link("lo", "127.0.0.1"),
        _link("patio0", "10.213.0.1", "bridge"),
        _link("veth1", "10.213.1.1", "veth"),
        _link("veth2", "10.0.0.1", "veth"),
        _link("wg0", "10.213.1.1", "wireguard"),
    ]
    assert own_links(json.dumps(links)) == ["patio0", "veth1"]


def test_another_interface_in_the_range_is_named() -> None:
    links = [_link("eth0", "10.213.7.7"), _link("eth1", "10.214.0.1"), _link("veth1", "10.213.1.1", "veth")]
    assert strangers_in_range(json.dumps(links)) == ["eth0"]


def test_tables_are_read_from_nft() -> None:
    listed = {"nftables": [{"metainfo": {"version": "1"}}, {"table": {"family": "ip", "name": "kube-proxy"}}]}
    assert parse_tables(json.dumps(listed)) == {("ip", "kube-proxy")}


def test_cached_cni_results_are_known_by_network_or_container() -> None:
    names = ["patio-aa-eth0", "cni-loopback-aa-lo", "cni-loopback-bb-lo", "podman-aa-eth0"]
    assert our_cni_results(names) == {"patio-aa-eth0", "cni-loopback-aa-lo"}


def _group(folder: Path, members: str = "") -> None:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").write_text(members)


def test_groups_with_a_process_anywhere_below_are_left_alone(tmp_path: Path) -> None:
    parent = tmp_path / "memory" / "k8s.io"
    _group(parent)
    _group(parent / ("a" * 64))
    _group(parent / ("b" * 64))
    _group(parent / ("b" * 64) / "inner", "12\n")
    _group(parent / "somebody-elses")
    assert deserted_cgroups(tmp_path) == [parent / ("a" * 64)]


def test_parent_group_goes_with_its_last_child(tmp_path: Path) -> None:
    parent = tmp_path / "k8s.io"
    _group(parent)
    _group(parent / ("a" * 64))
    assert deserted_cgroups(tmp_path) == [parent / ("a" * 64), parent]


def test_kernel_settings_come_back_as_they_were_first_remembered(tmp_path: Path) -> None:
    forward = tmp_path / "net" / "ipv4" / "ip_forward"
    forward.parent.mkdir(parents=True)
    memory = tmp_path / "sysctls.json"
    forward.write_text("0\n")
    remember(memory, tmp_path)
    forward.write_text("1\n")
    remember(memory, tmp_path)
    assert restore(memory, tmp_path) == []
    assert forward.read_text().strip() == "0"


def test_setting_that_cannot_be_put_back_is_named(tmp_path: Path) -> None:
    panic = tmp_path / "kernel" / "panic"
    panic.parent.mkdir()
    panic.write_text("1\n")
    remember(tmp_path / "sysctls.json", tmp_path)
    panic.unlink()
    # Written through a link into nowhere, as root may write anything else.
    panic.symlink_to("/proc/version")
    assert restore(tmp_path / "sysctls.json", tmp_path) == ["kernel.panic=1"]


def test_groups_of_a_name_are_found_in_every_hierarchy_and_go(tmp_path: Path) -> None:
    for hierarchy in ("memory", "cpu"):
        (tmp_path / hierarchy / "patio-docker" / "a" / "b").mkdir(parents=True)
    (tmp_path / "memory" / "other").mkdir()
    found = groups_named("patio-docker", tmp_path)
    assert found == [tmp_path / "cpu" / "patio-docker", tmp_path / "memory" / "patio-docker"]
    for group in found:
        remove_group(group)
    assert groups_named("patio-docker", tmp_path) == []
    assert (tmp_path / "memory" / "other").exists()


@pytest.mark.parametrize("installed", [set(), {"nft"}, {"nft", "/usr/lib/cni/ptp"}])
def test_missing_packages_are_those_whose_file_is_not_there(installed: set[str]) -> None:
    wanted = (Package("nftables", "nft"), Package("containernetworking-plugins", "/usr/lib/cni/ptp"))
    lacking = missing(wanted, lambda provides: provides in installed)
    assert {package.provides for package in lacking} == {"nft", "/usr/lib/cni/ptp"} - installed


def test_node_in_a_container_changes_no_network_setting_of_ours() -> None:
    assert not [name for name in CHANGED_IN_CONTAINER if name.startswith("net/")]
    assert {"kernel/panic", "fs/protected_symlinks"} <= set(CHANGED_IN_CONTAINER)

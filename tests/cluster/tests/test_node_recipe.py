"""The node image's recipe, and its inputs as kind, kubeadm, ldd and containerd write them."""

import json
from pathlib import Path

import pytest

from e2e_cluster import node_recipe
from e2e_cluster.errors import ClusterError
from e2e_cluster.node_recipe import ProgramImage
from e2e_cluster.node_root import inside
from e2e_cluster.pins import KIND_NODE

LISTED = """\
example.org/kube-apiserver:v1.34.4
example.org/kube-proxy:v1.34.4
example.org/coredns/coredns:v1.12.1
example.org/pause:3.10.1
example.org/etcd:3.6.5-0
"""
CONFIGURATION = """\
[plugins."io.containerd.grpc.v1.cri"]
  # use fixed sandbox image
  sandbox_image = "example.org/pause:3.10"
  restrict_oom_score_adj = false
"""
LDD = """\
/usr/sbin/nft:
	linux-vdso.so.1 (0x00007fff)
	libnftables.so.1 => /lib/x86_64-linux-gnu/libnftables.so.1 (0x00007f01)
	libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f02)
	/lib64/ld-linux-x86-64.so.2 (0x00007f03)
/usr/lib/x86_64-linux-gnu/xtables/libxt_tcp.so:
	statically linked
"""


def test_images_are_those_of_kubeadm_and_the_pause_of_containerd() -> None:
    found = node_recipe.program_images(LISTED, CONFIGURATION)
    assert [image.name for image in found if image.binary == "pause"] == ["example.org/pause:3.10"]
    assert {image.binary for image in found} == {"kube-apiserver", "kube-proxy", "coredns", "etcd", "pause"}
    assert {image.binary for image in found} <= set(KIND_NODE)


def test_configuration_without_a_sandbox_image_is_an_error() -> None:
    with pytest.raises(ValueError, match="sandbox_image"):
        node_recipe.program_images(LISTED, "")


def test_programs_are_where_static_pods_and_entry_points_look() -> None:
    places = {name: ProgramImage("x", name).place for name in ("etcd", "kube-proxy", "coredns", "pause")}
    assert places == {
        "etcd": "usr/local/bin/etcd",
        "kube-proxy": "usr/local/bin/kube-proxy",
        "coredns": "coredns",
        "pause": "pause",
    }


def test_containerd_lowers_no_oom_score() -> None:
    assert "restrict_oom_score_adj = true" in node_recipe.containerd_settings(CONFIGURATION)
    with pytest.raises(ValueError, match="restrict_oom_score_adj"):
        node_recipe.containerd_settings("version = 3")


def test_containers_have_no_limits_of_their_own() -> None:
    specification = {"process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_NOFILE"}]}, "ociVersion": "1"}
    made = json.loads(node_recipe.container_defaults(json.dumps(specification)))
    assert made == {"process": {"cwd": "/"}, "ociVersion": "1"}


def test_libraries_are_the_files_that_ldd_names() -> None:
    folder = "lib/x86_64-linux-gnu"
    found = node_recipe.libraries(LDD.splitlines())
    assert found == {f"{folder}/libnftables.so.1", f"{folder}/libc.so.6", "lib64/ld-linux-x86-64.so.2"}


def test_version_file_has_no_end_of_line() -> None:
    assert node_recipe.texts("v1.34.4")["kind/version"] == "v1.34.4"


def test_every_enabled_unit_is_kinds_or_written_here() -> None:
    kinds = {"containerd", "undo-mount-hacks", "kubelet"}
    written = {Path(place).stem for place in node_recipe.texts("v1") if place.endswith(".service")}
    assert set(node_recipe.ENABLED) == kinds | written


def test_links_of_another_root_stay_in_it(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/a").mkdir(parents=True)
    (tmp_path / "usr/lib/a/libx.so.1.2").write_text("x")
    (tmp_path / "usr/lib/a/libx.so.1").symlink_to("libx.so.1.2")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "lib64").symlink_to("/lib/a")
    (tmp_path / "up").symlink_to("../../../usr")
    for place in ("lib/a/libx.so.1", "lib64/libx.so.1", "up/lib/a/libx.so.1"):
        assert inside(tmp_path, place) == tmp_path / "usr/lib/a/libx.so.1.2"


@pytest.mark.parametrize("place", ["etc/passwd", "circle"])
def test_file_that_another_root_lacks_is_an_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ClusterError, match=place):
        inside(tmp_path, place)

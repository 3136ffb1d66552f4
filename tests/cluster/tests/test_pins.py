import re

import pytest

from e2e_cluster.binaries import go_suffices
from e2e_cluster.pins import (
    BINARIES,
    IN_PODS,
    KIND,
    KIND_NODE,
    LOCAL,
    content_key,
    linker_flags,
    parse_go_version,
    required_go,
    required_version,
)
from e2e_cluster.places import TOOLS

GO_MOD = """\
module example
go 1.26.8
require (
	k8s.io/kubernetes v1.34.4 // indirect
	helm.sh/helm/v3 v3.22.0 // indirect
)
replace k8s.io/api => k8s.io/api v0.34.4
"""


def test_key_changes_with_every_input() -> None:
    files = [("go.mod", b"a"), ("go.sum", b"b")]
    keys = {
        content_key("-s -w", files),
        content_key("-s", files),
        content_key("-s -w", [("go.mod", b"a"), ("go.sum", b"c")]),
        content_key("-s -w", [("go.mod", b"ab"), ("go.sum", b"")]),
    }
    assert len(keys) == 4


def test_key_does_not_depend_on_the_order_of_files() -> None:
    files = [("go.mod", b"a"), ("go.sum", b"b")]
    assert content_key("", files) == content_key("", reversed(files))


def test_versions_are_read_from_go_mod() -> None:
    assert required_version(GO_MOD, "k8s.io/kubernetes") == "v1.34.4"
    assert required_go(GO_MOD) == (1, 26, 8)


def test_module_that_is_not_required_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not require"):
        required_version(GO_MOD, "k8s.io/api")


@pytest.mark.parametrize(("text", "version"), [("go1.26.8", (1, 26, 8)), ("1.21", (1, 21)), ("go1.27rc1", (1, 27))])
def test_go_versions_are_parsed(text: str, version: tuple[int, ...]) -> None:
    assert parse_go_version(text) == version


@pytest.mark.parametrize(
    ("found", "toolchain", "enough"),
    [
        ((1, 26, 8), "local", True),
        ((1, 27), "local", True),
        ((1, 24, 3), "local", False),
        ((1, 24, 3), "auto", True),
        ((1, 19), "auto", False),
    ],
)
def test_older_go_suffices_only_where_it_may_fetch_a_newer(
    found: tuple[int, ...], toolchain: str, enough: bool
) -> None:
    assert go_suffices(found, toolchain, (1, 26, 8)) is enough


def test_kubernetes_and_helm_get_the_version_of_kubernetes() -> None:
    mods = {"kubernetes": GO_MOD, "helm": GO_MOD}
    assert "version.gitVersion=v1.34.4" in linker_flags("kubernetes", mods)
    assert "chartutil.k8sVersionMinor=34" in linker_flags("helm", mods)
    assert "version.version=v3.22.0" in linker_flags("helm", mods)
    assert linker_flags("etcd", mods) == "-s -w"


def test_every_binary_is_a_tool_of_its_pinned_module() -> None:
    for binary in BINARIES:
        go_mod = (TOOLS / binary.module / "go.mod").read_text()
        if binary.package != ".":
            assert re.search(rf"^(tool )?\s*{re.escape(binary.package)}$", go_mod, re.MULTILINE), binary
            assert (TOOLS / binary.module / "go.sum").exists()


def test_kubeadm_is_built_for_the_node_of_kind_alone() -> None:
    assert set(KIND_NODE) - {*LOCAL} == {"kubeadm"}


def test_programs_that_run_in_pods_are_no_part_of_the_cluster() -> None:
    assert not set(IN_PODS) & {*LOCAL, *KIND}
    assert set(IN_PODS) <= {binary.name for binary in BINARIES}

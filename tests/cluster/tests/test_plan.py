"""The cluster on paper: configuration, command lines, choice of provider, command line."""

import datetime
import ipaddress
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from e2e_cluster import cli, configuration, network, probes
from e2e_cluster.archives import read_archive, write_single_file_image
from e2e_cluster.binaries import Binaries
from e2e_cluster.certificates import Authority
from e2e_cluster.errors import ClusterError
from e2e_cluster.local import Plan, plan
from e2e_cluster.pins import LOCAL
from e2e_cluster.places import Folders, cache_root
from e2e_cluster.provider import choose

NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


def _plan(root: str = "/s", built: str = "/cache/one") -> Plan:
    binaries = Binaries({name: Path(built) / name for name in LOCAL})
    return plan(Folders(Path(root)), binaries, Path("/usr/bin/containerd"))


def test_fingerprint_is_stable_and_follows_binaries_and_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = _plan()
    assert first.fingerprint == _plan().fingerprint
    assert first.fingerprint != _plan(built="/cache/two").fingerprint
    monkeypatch.setattr(configuration, "RESTART_BACKOFF", "9s")
    assert first.fingerprint != _plan().fingerprint


def test_every_file_lies_in_the_state_folder() -> None:
    assert all(path.is_relative_to("/s") for path in _plan().files)


def test_sockets_of_the_state_folder_fit_into_the_kernel_limit() -> None:
    kubelet = Folders().kubelet / "device-plugins" / "kubelet.sock"
    assert max(len(str(path)) for path in (Folders().containerd_socket, kubelet)) < 100


def test_json_files_are_json() -> None:
    for path, text in _plan().files.items():
        if path.suffix in (".json", ".conflist"):
            json.loads(text)


@pytest.mark.parametrize(
    ("requested", "environ", "docker", "chosen"),
    [
        (None, {}, True, "kind"),
        (None, {}, False, "local"),
        (None, {"PATIO_CLUSTER_PROVIDER": "local"}, True, "local"),
        ("kind", {"PATIO_CLUSTER_PROVIDER": "local"}, False, "kind"),
        (None, {"PATIO_CLUSTER_PROVIDER": ""}, False, "local"),
    ],
)
def test_provider_is_the_one_requested_or_the_one_that_fits(
    requested: str | None, environ: dict[str, str], docker: bool, chosen: str
) -> None:
    has_docker: Callable[[], bool] = lambda: docker  # noqa: E731 - a value of the table
    assert choose(requested, environ, has_docker) == chosen


def test_unknown_provider_is_rejected_by_name() -> None:
    with pytest.raises(ClusterError, match="minikube"):
        choose(None, {"PATIO_CLUSTER_PROVIDER": "minikube"})


def test_certificate_names_its_user_and_groups(tmp_path: Path) -> None:
    pair = Authority(tmp_path, NOW).issue_client("bob", "bob", ["testers"])
    subject = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["bob"]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["testers"]
    assert pair.key.stat().st_mode & 0o077 == 0


def test_archive_made_here_is_read_back(tmp_path: Path) -> None:
    program, archive = tmp_path / "pause", tmp_path / "image.tar"
    program.write_bytes(b"program")
    write_single_file_image(archive, name="ghcr.io/patio/x:1", program=program, architecture="amd64")
    (image,) = read_archive(archive)
    assert image.name == "ghcr.io/patio/x:1"
    first = archive.read_bytes()
    write_single_file_image(archive, name="ghcr.io/patio/x:1", program=program, architecture="amd64")
    assert archive.read_bytes() == first


def test_file_that_is_no_archive_is_reported(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"nothing")
    with pytest.raises(ClusterError, match="not an image archive"):
        read_archive(tmp_path / "x.tar")


def test_node_with_a_taint_is_not_usable() -> None:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert probes.node_is_usable({"spec": {}, "status": ready})
    assert not probes.node_is_usable({"spec": {"taints": [{"key": "not-ready"}]}, "status": ready})
    assert not probes.node_is_usable({"spec": {}, "status": {}})
    assert not probes.node_is_usable(None)


def test_dns_reply_counts_only_if_it_answers_the_question() -> None:
    question = probes.dns_question(7, "a.b")
    assert question[12:] == b"\x01a\x01b\x00\x00\x01\x00\x01"
    answered = question[:2] + b"\x84\x00\x00\x01\x00\x01" + question[8:]
    assert probes.has_answer(answered, question)
    assert not probes.has_answer(b"\x00\x08" + answered[2:], question)
    refused = question[:2] + b"\x84\x05\x00\x01\x00\x00" + question[8:]
    assert not probes.has_answer(refused, question)
    assert not probes.has_answer(b"", question)


def test_address_ranges_are_disjoint_and_inside_the_guarded_one() -> None:
    pods, services = (ipaddress.IPv4Network(r) for r in (network.PODS, network.SERVICES))
    assert not pods.overlaps(services)
    assert pods.subnet_of(network.RANGE)
    assert services.subnet_of(network.RANGE)


def test_cache_is_where_the_environment_says() -> None:
    assert cache_root({"PATIO_CACHE": "/x"}) == Path("/x")
    assert cache_root({"XDG_CACHE_HOME": "/y"}) == Path("/y/patio")


def test_failure_is_one_message_and_status_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATIO_CLUSTER_PROVIDER", "nonsense")
    assert cli.main(["status"]) == 1
    assert capsys.readouterr().err.startswith("error: there is no provider 'nonsense'")


def test_help_names_every_command() -> None:
    text = cli.parser().format_help()
    assert all(command in text for command in ("up", "down", "load-image", "kubeconfig", "tools", "status"))

"""The kind provider's configuration, judged by kind itself. No cluster is made: there may be no Docker."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from docker_stand_in import calls, stand_in

from e2e_cluster import ensure_binaries
from e2e_cluster.docker_daemon import OwnDaemon
from e2e_cluster.errors import StartError
from e2e_cluster.kind import KindProvider, cluster_configuration, kind_environ
from e2e_cluster.node_image import VARIABLE, default_image
from e2e_cluster.pins import KIND, required_version
from e2e_cluster.places import TOOLS

pytestmark = pytest.mark.api


@pytest.fixture(scope="module")
def kind() -> Path:
    return ensure_binaries(KIND)["kind"]


def _create(kind: Path, configuration: str, folder: Path) -> str:
    """What kind says to this configuration where Docker is present and does not answer."""
    docker = folder / "docker"
    docker.write_text("#!/bin/sh\necho no daemon here >&2\nexit 1\n")
    docker.chmod(0o755)
    file = folder / "cluster.json"
    file.write_text(configuration)
    done = subprocess.run(
        [str(kind), "create", "cluster", "--config", str(file)],
        env={**os.environ, "PATH": f"{folder}:/usr/bin:/bin", "KIND_EXPERIMENTAL_PROVIDER": "docker"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    return done.stderr


def test_kind_accepts_the_configuration_and_then_asks_for_docker(kind: Path, tmp_path: Path) -> None:
    output = _create(kind, cluster_configuration(), tmp_path)
    assert "config" not in output.lower()
    assert "no daemon here" in output


@pytest.mark.parametrize("where", ["cluster", "node"])
def test_kind_rejects_a_misspelt_field(kind: Path, tmp_path: Path, where: str) -> None:
    configuration: dict[str, Any] = json.loads(cluster_configuration())
    place = configuration if where == "cluster" else configuration["nodes"][0]
    place["imaeg"] = "x"
    output = _create(kind, json.dumps(configuration), tmp_path)
    assert "field imaeg not found" in output


def test_pinned_kind_has_a_node_image_of_our_version_by_digest(
    kind: Path,
) -> None:
    wanted = required_version((TOOLS / "kubernetes" / "go.mod").read_text(), "k8s.io/kubernetes")
    minor = ".".join(wanted.split(".")[:2])
    images = re.findall(rb"kindest/node:(v[0-9.]+)@sha256:[0-9a-f]{64}", kind.read_bytes())
    assert [image.decode().rsplit(".", 1)[0] for image in images] == [minor]
    assert f":{images[0].decode()}@" in default_image(kind.read_bytes())


def test_kind_is_told_its_daemon_and_nothing_else() -> None:
    others = {"KIND_CLUSTER_NAME": "mine", "KIND_EXPERIMENTAL_PROVIDER": "podman"}
    environ = kind_environ({"DOCKER_HOST": "unix:///s", **others}, Path("/k"))
    assert environ == {"DOCKER_HOST": "unix:///s", "KUBECONFIG": "/k", "KIND_EXPERIMENTAL_PROVIDER": "docker"}


def test_node_that_does_not_start_is_kept_and_the_end_is_shown(
    kind: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = stand_in(
        tmp_path,
        {
            "info": (0, "{}"),
            "image inspect": (0, "[]"),
            "inspect --type=image": (0, "[]"),
            "network": (0, "kind"),
            "ps": (0, ""),
            "run": (125, "docker: no room for a node"),
        },
    )
    monkeypatch.setenv("PATH", docker.environ["PATH"])
    monkeypatch.setenv("PATIO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(VARIABLE, "mine:1")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bin").symlink_to(kind.parents[1])
    provider = KindProvider(own=OwnDaemon(tmp_path / "docker-of-our-own"))
    with pytest.raises(StartError) as raised:
        provider.up()
    assert "no room for a node" in str(raised.value)
    assert str(tmp_path / "cache" / "kind" / "create.log") in str(raised.value)
    (run,) = [line for line in calls(tmp_path) if line.startswith("run")]
    assert run.endswith(" mine:1")
    assert not [line for line in calls(tmp_path) if line.startswith("rm")], "the node is retained"

"""Whether a Docker daemon answers, and whether its client can build."""

from pathlib import Path

import pytest
from docker_stand_in import NO_DAEMON, stand_in

from e2e_cluster.docker_client import DockerClient, has_own_buildkit


def test_daemon_that_answers_gives_no_reason(tmp_path: Path) -> None:
    docker = stand_in(tmp_path, {"info": (0, "Server: x")})
    assert docker.answers()
    assert docker.refusal() is None


def test_reason_is_in_the_words_of_docker(tmp_path: Path) -> None:
    assert stand_in(tmp_path, {"info": (1, NO_DAEMON)}).refusal() == NO_DAEMON


def test_machine_without_docker_has_no_daemon(tmp_path: Path) -> None:
    assert DockerClient({"PATH": str(tmp_path)}).refusal() == "there is no docker on the path"


@pytest.mark.parametrize(
    ("version", "own"),
    [("20.10.24+dfsg1\n", True), ("22.06.0", True), ("23.0.1", False), ("28.2.2", False), ("", False)],
)
def test_client_before_23_has_a_buildkit_of_its_own(version: str, own: bool) -> None:
    assert has_own_buildkit(version) is own


@pytest.mark.parametrize(
    ("version", "buildx", "builds"), [("28.2.2", 0, True), ("28.2.2", 1, False), ("20.10.24+dfsg1", 1, True)]
)
def test_newer_client_builds_only_with_buildx(tmp_path: Path, version: str, buildx: int, builds: bool) -> None:
    docker = stand_in(tmp_path, {"version": (0, version), "buildx version": (buildx, "buildx")})
    assert docker.builds_with_buildkit() is builds

"""A docker command that answers as written down, for tests of what is made of its answers."""

from collections.abc import Mapping
from pathlib import Path

from e2e_cluster.docker_client import DockerClient

NO_DAEMON = "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?"


def stand_in(folder: Path, answers: Mapping[str, tuple[int, str]]) -> DockerClient:
    """A client whose docker knows these commands, by how their line begins; all others fail.

    An answer is an exit status and a text, on stdout with status 0 and on stderr otherwise. The lines it was called
    with are in `folder/calls`.
    """
    output_of = {begin: f"echo '{text}'" if text else ":" for begin, (_, text) in answers.items()}
    cases = "\n".join(
        f"'{begin}'*) {output_of[begin]}{'' if status == 0 else ' >&2'}; exit {status};;"
        for begin, (status, _) in answers.items()
    )
    program = folder / "docker"
    program.write_text(f'#!/bin/sh\necho "$*" >>{folder}/calls\ncase "$*" in\n{cases}\nesac\necho no >&2\nexit 1\n')
    program.chmod(0o755)
    return DockerClient({"PATH": f"{folder}:/usr/bin:/bin"})


def calls(folder: Path) -> list[str]:
    """The lines with which docker was called."""
    return (folder / "calls").read_text().splitlines()

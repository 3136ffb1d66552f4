"""The program before runc: what it takes out of a container, and that it becomes runc."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from e2e_cluster.docker_daemon import runtime_program
from e2e_cluster.limited_runc import LACKING, description, limit


def process(**more: Any) -> dict[str, Any]:
    sets = ("bounding", "effective", "permitted")
    return {"args": ["init"], "capabilities": {name: ["CAP_KILL", LACKING, "CAP_SYS_ADMIN"] for name in sets}, **more}


def test_capability_leaves_every_set_and_the_others_stay() -> None:
    limited = process()
    limit(limited)
    assert set(map(tuple, limited["capabilities"].values())) == {("CAP_KILL", "CAP_SYS_ADMIN")}


@pytest.mark.parametrize(("score", "expected"), [(-500, 0), (0, 0), (300, 300)])
def test_oom_score_below_zero_becomes_zero(score: int, expected: int) -> None:
    limited = process(oomScoreAdj=score)
    limit(limited)
    assert limited["oomScoreAdj"] == expected


def test_process_without_capabilities_is_left_alone() -> None:
    limited: dict[str, Any] = {"args": ["x"], "capabilities": None}
    limit(limited)
    assert limited == {"args": ["x"], "capabilities": None}


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("--root /r create --bundle /b --pid-file /p ID", "/b/config.json"),
        ("run ID", "./config.json"),
        ("--root /r exec --process /tmp/p --detach ID", "/tmp/p"),
        ("exec ID sh", None),
        ("--root /r delete ID", None),
        ("state ID", None),
    ],
)
def test_only_commands_that_start_a_process_describe_one(line: str, file: str | None) -> None:
    found = description(line.split())
    assert (found and found[0]) == file


def test_written_program_limits_the_container_and_becomes_runc(tmp_path: Path) -> None:
    program, runc, bundle = tmp_path / "limited", tmp_path / "runc", tmp_path / "bundle"
    program.write_text(runtime_program(sys.executable))
    runc.write_text('#!/bin/sh\necho "$*"\n')
    for file in (program, runc):
        file.chmod(0o755)
    bundle.mkdir()
    (bundle / "config.json").write_text(json.dumps({"process": process(), "root": {"path": "rootfs"}}))
    line = ["create", "--bundle", str(bundle), "ID"]
    done = subprocess.run(
        [str(program), *line], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == line
    written = json.loads((bundle / "config.json").read_text())
    assert LACKING not in json.dumps(written)
    assert written["root"] == {"path": "rootfs"}

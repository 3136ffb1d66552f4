"""The bare API server, for real."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e_cluster import ControlPlane, control_plane

pytestmark = pytest.mark.api

HOLDER = """
import signal
from e2e_cluster import control_plane
with control_plane() as plane:
    print(plane.folder, flush=True)
    signal.pause()
"""


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with control_plane() as plane:
        yield plane


def _processes_in(folder: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if folder.encode() in command and entry.name != str(os.getpid()):
                found.append(int(entry.name))
    return found


def test_administrator_may_do_everything(plane: ControlPlane) -> None:
    assert plane.kubectl("auth", "can-i", "*", "*").strip() == "yes"


def test_anybody_else_may_do_what_rbac_says(plane: ControlPlane) -> None:
    plane.kubectl("create", "clusterrole", "pod-reader", "--verb=get", "--resource=pods")
    plane.kubectl("create", "clusterrolebinding", "readers", "--clusterrole=pod-reader", "--group=readers")
    reader = f"--kubeconfig={plane.kubeconfig_for('reader', ['readers'])}"
    stranger = f"--kubeconfig={plane.kubeconfig_for('system:serviceaccount:default:x')}"

    def may(kubeconfig_option: str) -> int:
        command = [str(plane.binaries.kubectl), kubeconfig_option, "auth", "can-i", "get", "pods"]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert may(reader) == 0
    assert may(stranger) == 1


def test_pods_are_accepted_without_any_controller(plane: ControlPlane) -> None:
    plane.kubectl("run", "lonely", "--image=nothing")
    assert "lonely" in plane.kubectl("get", "pods", "-o", "name")


def test_nothing_outlives_the_context() -> None:
    with control_plane() as plane:
        folder = plane.folder
        assert len(_processes_in(str(folder))) == 2
    assert not folder.exists()
    assert _processes_in(str(folder)) == []


def test_killed_caller_takes_its_control_plane_along() -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    folder = holder.stdout.readline().strip()
    assert len(_processes_in(folder)) == 2
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 60
    while remaining := _processes_in(folder):
        assert time.monotonic() < deadline, f"still there: {remaining}"
        time.sleep(0.05)
    holder.stdout.close()
    shutil.rmtree(folder)

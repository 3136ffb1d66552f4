"""Starting components, and recognising and ending what belongs to a cluster.

A process is ours when its environment carries our mark, which everything we start inherits (components,
shims, CNI plugins); or when its root file system lies in our state folder (what runs in containers, where
the environment comes from the pod). Both are read from the kernel at the moment of asking, so there are
no pid files that could be stale, lost with half a state folder, or name a stranger's process.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from e2e_cluster.components import Component
from e2e_cluster.errors import StartError
from e2e_cluster.mounts import parse_mounts
from e2e_cluster.packages import system_path

MARK = "PATIO_CLUSTER_STATE"
PROC = Path("/proc")
KILL_DEADLINE = 20.0
POLL = 0.05


@dataclass(frozen=True)
class Found:
    """A living process of ours."""

    pid: int
    executable: str
    command: str

    def __str__(self) -> str:
        """As named in messages."""
        return f"process {self.pid} ({self.command[:100] or self.executable})"


def start(component: Component, log: Path, *, mark: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a component in a session of its own, its output going to ``log``.

    With ``mark`` it carries the state folder of the cluster it belongs to and outlives us. Without, it
    belongs to this very process and dies with it, even if that is killed.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Nothing of the caller's environment: no proxies between components, no secrets in /proc.
    environ = {"PATH": system_path(), "HOME": str(Path.home())}
    argv = list(component.argv)
    if mark is not None:
        environ[MARK] = str(mark)
    else:
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv]
    with log.open("ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd="/",
            start_new_session=True,
        )


def wait_until(
    what: str,
    condition: Callable[[], bool],
    deadline: float,
    running: dict[str, subprocess.Popen[bytes]],
    logs: Path,
) -> None:
    """Wait for a condition, and give up at once when a component it depends on has ended."""
    end = time.monotonic() + deadline
    while not condition():
        for name, process in running.items():
            if (status := process.poll()) is not None:
                raise StartError(f"{name} ended with status {status} before {what}:\n{log_tail(logs / f'{name}.log')}")
        if time.monotonic() > end:
            tails = "\n".join(f"{name}:\n{log_tail(logs / f'{name}.log', 4)}" for name in running)
            raise StartError(f"no {what} within {deadline:.0f} s; logs in {logs}\n{tails}")
        time.sleep(POLL)


def log_tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, indented."""
    try:
        text = log.read_text(errors="replace")
    except OSError:
        return f"  (no log {log})"
    return "\n".join(f"  {line[:400]}" for line in text.splitlines()[-lines:])


def is_marked(environ: bytes, state: Path) -> bool:
    """Whether a process's environment, as the kernel shows it, carries the mark of this cluster."""
    return f"{MARK}={state}".encode() in environ.split(b"\0")


def lives_in(mountinfo: str, state: Path) -> bool:
    """Whether a process's root file system is a container's whose layers are kept in the state folder."""
    return any(mount.point == "/" and f"{state}/" in mount.options for mount in parse_mounts(mountinfo))


def find_cluster_processes(state: Path, proc: Path = PROC) -> list[Found]:
    """Every living process of the cluster with this state folder."""
    found = (_describe(pid, proc) for pid in _pids(proc) if _is_of_cluster(proc / str(pid), state))
    return [process for process in found if process is not None]


def kill_cluster_processes(state: Path, deadline: float = KILL_DEADLINE) -> list[Found]:
    """Kill everything of ours until nothing is found any more; answers with what survived.

    SIGKILL at once: what they would save is about to be deleted, and a component that is given time
    restarts what was just killed.
    """
    end = time.monotonic() + deadline
    while remaining := find_cluster_processes(state):
        for process in remaining:
            kill_process(process.pid, state)
        if time.monotonic() > end:
            return remaining
        time.sleep(POLL)
    return []


def kill_process(pid: int, state: Path) -> None:
    """Kill a process if it is ours: the descriptor fixes which process the check was about."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if _is_of_cluster(PROC / str(pid), state):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _pids(proc: Path) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def _is_of_cluster(folder: Path, state: Path) -> bool:
    # A zombie has neither environment nor mounts: it is dead, and its parent's to bury.
    try:
        return is_marked((folder / "environ").read_bytes(), state) or lives_in(
            (folder / "mountinfo").read_text(), state
        )
    except OSError:
        return False


def _describe(pid: int, proc: Path) -> Found | None:
    folder = proc / str(pid)
    try:
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        return Found(pid, os.readlink(folder / "exe"), command)
    except OSError:
        return None

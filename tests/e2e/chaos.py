"""Kills single processes of pods from the node: nobody can kill process 1 of a container from inside it."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from patio_testing.kube import until

PROC = Path("/proc")


def kill_in_pod(pod: str, program: str) -> None:
    """SIGKILL the processes of a pod whose command line has `program` in it, and wait until there are others.

    Raises:
        TimedOutError: there was none, or none came again.

    """
    killed = until(f"{program} in {pod}", lambda: _processes(pod, program), within=30)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    until(f"{program} in {pod} again", lambda: _processes(pod, program) - killed, within=60)


def signal_in_pod(pod: str, program: str, what: signal.Signals) -> None:
    """Send a signal to the processes of a pod whose command line has `program` in it, such as SIGSTOP.

    Raises:
        TimedOutError: there was none.

    """
    for pid in until(f"{program} in {pod}", lambda: _processes(pod, program), within=30):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def signal_children_in_pod(pod: str, program: str, what: signal.Signals) -> None:
    """Send a signal to the processes that those of a program have started, and not to these themselves.

    Raises:
        TimedOutError: there was none.

    """
    for pid in until(f"children of {program} in {pod}", lambda: _children(_processes(pod, program)), within=30):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, what)


def _children(parents: set[int]) -> set[int]:
    found = set()
    for pid in map(int, filter(str.isdecimal, os.listdir(PROC))):
        with contextlib.suppress(OSError):
            # PID (COMMAND) STATE PPID ...; the command may have spaces and brackets.
            if int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[1]) in parents:
                found.add(pid)
    return found - parents


def _processes(pod: str, program: str) -> set[int]:
    """Return the processes of a pod that run a program.

    A process is the pod's when the kubelet's /etc/hostname in its file system says so; what a process says of itself it
    may have overwritten, as smg does. Both kinds of cluster run their containers in this machine's kernel.
    """
    return {pid for pid in map(int, filter(str.isdecimal, os.listdir(PROC))) if _is_it(pid, pod, program)}


def _is_it(pid: int, pod: str, program: str) -> bool:
    try:
        command = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ")
        host = (PROC / str(pid) / "root/etc/hostname").read_text().strip()
    except OSError:  # it has ended since
        return False
    return program.encode() in command and host == pod

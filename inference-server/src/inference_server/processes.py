"""Reads processes from /proc: who is a descendant of whom, who is alive, who is whose.

A process is known by (pid, start time): a pid alone may be another process by now. A zombie is dead: it holds neither
memory nor port, and who has to collect it may take its time. Off Linux there is no /proc, and the answers are empty.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Iterable

PROC = "/proc"
MAX_COMMAND = 64 * 1024
"""Bytes of a command line that are read."""


@dataclass(frozen=True)
class Identity:
    """One process, now and never another: its pid and the clock tick at which it started."""

    pid: int
    start: int


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat says of a process."""

    identity: Identity
    name: str
    state: str
    parent: int
    group: int
    session: int

    @property
    def alive(self) -> bool:
        """Whether it is neither a zombie nor dead."""
        return self.state not in ("Z", "X", "x")


def parse_stat(text: str) -> Stat:
    """Read one line of /proc/PID/stat. The name is in brackets and may contain anything, brackets too.

    Raises:
        ValueError: it is not such a line.
    """
    before, _, after = text.rpartition(")")
    pid, _, name = before.partition("(")
    fields = after.split()
    if len(fields) < 20:
        raise ValueError("not a line of /proc/PID/stat: %r" % text[:80])
    return Stat(Identity(int(pid), int(fields[19])), name, fields[0], int(fields[1]), int(fields[2]), int(fields[3]))


def stat_of(pid: int) -> Stat | None:
    """Return a process's line, or None if there is no such process."""
    try:
        with open("%s/%d/stat" % (PROC, pid), "rb") as file:
            return parse_stat(file.read().decode("utf-8", "replace"))
    except (OSError, ValueError):
        return None


def identity_of(pid: int) -> Identity:
    """Return a process's identity; off Linux, or if there is no such process, the start is 0."""
    stat = stat_of(pid)
    return stat.identity if stat is not None else Identity(pid, 0)


def is_alive(identity: Identity) -> bool:
    """Whether exactly this process is alive; a zombie and a reused pid are not."""
    stat = stat_of(identity.pid)
    return stat is not None and stat.identity == identity and stat.alive


def all_processes() -> list[Stat]:
    """Return every process that can be seen."""
    try:
        names = os.listdir(PROC)
    except OSError:
        return []
    stats = (stat_of(int(name)) for name in names if name.isdigit())
    return [stat for stat in stats if stat is not None]


def descendants(processes: Iterable[Stat], roots: Iterable[int]) -> list[Stat]:
    """Return the living descendants of some pids among these processes, not the roots themselves. Pure."""
    children: dict[int, list[Stat]] = {}
    for stat in processes:
        children.setdefault(stat.parent, []).append(stat)
    found: list[Stat] = []
    seen: set[int] = set(roots)
    level = list(seen)
    while level:
        below = [stat for pid in level for stat in children.get(pid, []) if stat.identity.pid not in seen]
        level = [stat.identity.pid for stat in below]
        seen.update(level)
        found += below
    return [stat for stat in found if stat.alive]


def belongs_to(processes: Iterable[Stat], identities: Iterable[Identity], session: int) -> list[Stat]:
    """Return the living processes of a tree without its root: by identity, their descendants, its session. Pure."""
    everything = list(processes)
    wanted = set(identities)
    own = [stat for stat in everything if stat.identity in wanted or (session > 0 and stat.session == session)]
    found = {stat.identity: stat for stat in own if stat.alive}
    for stat in descendants(everything, [stat.identity.pid for stat in own]):
        found[stat.identity] = stat
    return list(found.values())


def send_signal(identity: Identity, number: int) -> bool:
    """Send a signal to exactly this process; return whether it was there.

    With a pidfd (Linux 5.3, Python 3.9) a reused pid cannot be hit even between the look and the signal.
    """
    opener = getattr(os, "pidfd_open", None)
    sender = getattr(signal, "pidfd_send_signal", None)
    try:
        if opener is None or sender is None:
            if not is_alive(identity):
                return False
            os.kill(identity.pid, number)
            return True
        descriptor = opener(identity.pid)
        try:
            if not is_alive(identity):
                return False
            sender(descriptor, number)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def cmdline_of(pid: int) -> str:
    """Return a process's command line with spaces, or an empty text."""
    return " ".join(words_of(pid)).encode("utf-8", "replace").decode("utf-8").strip()


def words_of(pid: int) -> list[str]:
    """Return a process's command line word by word; nothing of a process that cannot be seen."""
    try:
        with open("%s/%d/cmdline" % (PROC, pid), "rb") as file:
            data = file.read(MAX_COMMAND)
    except OSError:
        return []
    return [os.fsdecode(word) for word in data.rstrip(b"\0").split(b"\0")] if data else []


def has_variable(pid: int, text: bytes) -> bool:
    """Whether a process was started with a variable (`NAME=value`). Some engines write over what is read here."""
    try:
        with open("%s/%d/environ" % (PROC, pid), "rb") as file:
            return text in file.read(1024 * 1024).split(b"\0")
    except OSError:
        return False


def work_of(processes: Iterable[Stat]) -> tuple[float, int]:
    """Return the CPU seconds that processes have used, and the bytes that they have read."""
    seconds, bytes_read = 0.0, 0
    for stat in processes:
        try:
            with open("%s/%d/stat" % (PROC, stat.identity.pid), "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            with open("%s/%d/io" % (PROC, stat.identity.pid), "rb") as file:
                bytes_read += int(file.readline().split()[1])
        except (OSError, ValueError, IndexError):
            continue
    return seconds, bytes_read

"""The keeper: a small process between the owner and its engine, so that no process of the engine outlives the owner.

It is run as a script (`python -I -S keeper.py CONTROL STDOUT STDERR OWNER FILE`), imports nothing but what the
interpreter has built in and ctypes, and sleeps until something happens. FILE is for those who look at the processes of
the machine: where the owner writes about this run. It is a child subreaper, so a process that leaves its
session or loses its parent comes to the keeper and not to PID 1. One socket is order channel and lifeline: when the
owner is gone, for whatever reason, the kernel closes the socket, and the keeper kills every descendant. A pidfd of
the owner says the same if another process still holds the owner's end. The engine dies with the keeper
(PR_SET_PDEATHSIG).

Orders from the owner, one a line: `launch N` and N bytes, `signal leader N`, `signal group N`, `stopping`, `kill`.
Words to the owner, one a line: `ready`, `started PID`, `failed ERRNO TEXT`, `exited STATUS` (a wait status), `gone`.
It must never import the package, wait without an event, or leave before its last descendant.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PIDFD_OPEN = 434
"""The number of this system call is the same on every architecture."""

MAX_ORDER = 16 * 1024 * 1024
"""Bytes of one order. A command and an environment are at most a few MiB in Linux."""

SHORT_PAUSE_MS = 5
LONG_PAUSE_MS = 200
"""While killing: how long to wait for a death before the next look for new descendants. Doubled from short to long."""


def linux_call(name: str, *arguments: int) -> int:
    """Call a function of the C library; return -1 where there is none of that name."""
    try:
        function = getattr(ctypes.CDLL(None, use_errno=True), name)
    except (OSError, AttributeError):
        return -1
    return int(function(*[ctypes.c_long(each) for each in arguments]))


def children_of(pid: int) -> list[int]:
    """Return the children of a process, of all its threads. Linux keeps the list if it was built with PROC_CHILDREN."""
    found: list[int] = []
    try:
        tasks = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return found
    for task in tasks:
        try:
            with open("/proc/%d/task/%s/children" % (pid, task), "rb") as file:
                found += [int(word) for word in file.read().split()]
        except OSError:
            continue
    return found


def descendants_of(pid: int) -> list[int]:
    """Return all descendants of a process, parents first."""
    found: list[int] = []
    seen = {pid}
    level = [pid]
    while level:
        level = [child for parent in level for child in children_of(parent) if child not in seen]
        seen.update(level)
        found += level
    return found


class Keeper:
    """The state of one keeper: the leader it started, and whether the owner is stopping it."""

    def __init__(self, control: int, stdout: int, stderr: int) -> None:
        self.control = control
        self.stdout = stdout
        self.stderr = stderr
        self.leader = 0
        self.leader_ended = False
        self.stopping = False
        self.killing = False
        self.owner_left = False
        self.received = b""

    def say(self, line: str) -> None:
        """Tell the owner something; the owner may have left."""
        data = line.encode("utf-8", "replace") + b"\n"
        while data and not self.owner_left:
            try:
                data = data[os.write(self.control, data) :]
            except OSError as error:
                if error.errno != errno.EINTR:
                    self.lose_owner()

    def lose_owner(self) -> None:
        """The owner is gone: nothing of the engine may stay."""
        self.owner_left = True
        self.killing = True

    def read_orders(self) -> None:
        """Read what the owner wrote, and carry out each complete order."""
        try:
            data = os.read(self.control, 65536)
        except OSError:
            data = b""
        if not data:
            self.lose_owner()
            return
        self.received += data
        if len(self.received) > MAX_ORDER:
            self.lose_owner()
            return
        while b"\n" in self.received:
            line, rest = self.received.split(b"\n", 1)
            order = line.decode("ascii", "replace").split()
            if order[:1] == ["launch"]:
                size = int(order[1])
                if len(rest) < size:
                    return
                self.received = rest[size:]
                self.launch(rest[:size])
                continue
            self.received = rest
            self.obey(order)

    def obey(self, order: list[str]) -> None:
        """Carry out one order of one line."""
        if order == ["stopping"]:
            self.stopping = True
        elif order == ["kill"]:
            self.killing = True
        elif order[:2] == ["signal", "leader"] and self.leader and not self.leader_ended:
            self.send(self.leader, int(order[2]))
        elif order[:2] == ["signal", "group"] and self.leader:
            self.send(-self.leader, int(order[2]))

    def send(self, pid: int, number: int) -> None:
        """Send a signal to a descendant, or to a group as a negative number. What was not reaped has no reused pid."""
        try:
            os.kill(pid, number)
        except OSError:
            return  # gone, or of another user; the loop looks again

    def launch(self, payload: bytes) -> None:
        """Start the engine in a session of its own; its command, directory and environment are NUL-separated."""
        count, directory, rest = payload.split(b"\0", 2)
        parts = rest.split(b"\0")[:-1]
        command = parts[: int(count)]
        environment = dict(part.split(b"=", 1) for part in parts[int(count) :])
        keeper = os.getpid()
        report, result = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                self.become(command, directory, environment, keeper)
            except OSError as error:
                os.write(result, ("%d %s" % (error.errno or 0, error)).encode("utf-8", "replace"))
            finally:
                os._exit(127)
        os.close(result)
        self.leader = pid
        # The pipe closes at a successful exec, so this wait is as long as the exec.
        failure = b""
        while True:
            data = os.read(report, 4096)
            if not data:
                break
            failure += data
        os.close(report)
        os.close(self.stdout)
        os.close(self.stderr)
        if failure:
            os.waitpid(pid, 0)
            self.leader = 0
            self.say("failed " + failure.decode("utf-8", "replace").replace("\n", " "))
            self.killing = True
        else:
            self.say("started %d" % pid)

    def become(self, command: list[bytes], directory: bytes, environment: dict[bytes, bytes], keeper: int) -> None:
        """In the child: become the engine. Returns only by an OSError."""
        os.setsid()
        linux_call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(127)  # the keeper died between fork and prctl
        for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(directory)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(self.stdout, 1)
        os.dup2(self.stderr, 2)
        os.execvpe(command[0], command, environment)  # noqa: S606 - this is what the keeper is for

    def reap(self) -> bool:
        """Collect every child that ended; return whether there are any left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except OSError as error:
                if error.errno == errno.ECHILD:
                    return False
                continue
            if pid == 0:
                return True
            if pid == self.leader and not self.leader_ended:
                self.leader_ended = True
                self.say("exited %d" % status)
                if not self.stopping:
                    self.killing = True


def keep(control: int, stdout: int, stderr: int, owner: int) -> None:
    """Keep one engine until all of its processes are gone and the owner knows, or has left."""
    for descriptor in (control, stdout, stderr):
        # The engine must not hold the lifeline: then the owner would not see that the keeper died.
        os.set_inheritable(descriptor, False)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    keeper = Keeper(control, stdout, stderr)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: setattr(keeper, "killing", True))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    linux_call("prctl", PR_SET_CHILD_SUBREAPER, 1)
    watched = select.poll()
    watched.register(control, select.POLLIN)
    watched.register(wake_read, select.POLLIN)
    owner_fd = linux_call("syscall", PIDFD_OPEN, owner, 0)
    if owner_fd >= 0:
        watched.register(owner_fd, select.POLLIN)
    keeper.say("ready")
    pause = SHORT_PAUSE_MS
    registered = [control, owner_fd] if owner_fd >= 0 else [control]
    while True:
        left = keeper.reap()
        if not left and (keeper.killing or (keeper.stopping and keeper.leader_ended)):
            keeper.say("gone")
            return
        if keeper.killing:
            for pid in descendants_of(os.getpid()) if os.path.isdir("/proc/self") else [keeper.leader]:
                keeper.send(pid, signal.SIGKILL)
            if not os.path.isdir("/proc/self"):
                keeper.obey(["signal", "group", str(int(signal.SIGKILL))])
        events = watched.poll(pause if keeper.killing else None)
        pause = min(2 * pause, LONG_PAUSE_MS) if keeper.killing else SHORT_PAUSE_MS
        for descriptor, _ in events:
            if descriptor == control:
                keeper.read_orders()
            elif descriptor == owner_fd:
                keeper.lose_owner()
            else:
                os.read(wake_read, 4096)
        while keeper.owner_left and registered:
            watched.unregister(registered.pop())


if __name__ == "__main__":
    keep(*[int(word) for word in sys.argv[1:5]])
    os._exit(0)  # the owner waits for this end: nothing is left to tidy up

"""Says who holds a TCP port of this machine: whether it is free, and whether a listener is one of some processes.

A server that answers on the right port may be another one, so `server` asks here before it believes an answer. Reads
/proc/net/tcp and the sockets of processes; other users' processes cannot be read, so an answer may be "not known".
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Iterable

from inference_server.processes import PROC

LISTENING = "0A"
LOWEST_CHOSEN = 10000
ATTEMPTS = 100


def parse_listeners(text: str, port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, of a text like /proc/net/tcp. Pure."""
    found: set[str] = set()
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == LISTENING and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(fields[9])
    return found


def listeners(port: int) -> set[str]:
    """Return the inodes of the sockets that listen on a port, on any address."""
    found: set[str] = set()
    for name in ("tcp", "tcp6"):
        try:
            with open("%s/net/%s" % (PROC, name)) as file:
                found |= parse_listeners(file.read(), port)
        except OSError:
            continue
    return found


def has_socket(pid: int, inodes: set[str]) -> bool:
    """Whether a process holds one of these sockets."""
    folder = "%s/%d/fd" % (PROC, pid)
    wanted = {"socket:[%s]" % inode for inode in inodes}
    try:
        descriptors = os.listdir(folder)
    except OSError:
        return False
    for descriptor in descriptors:
        try:
            if os.readlink("%s/%s" % (folder, descriptor)) in wanted:
                return True
        except OSError:
            continue
    return False


def holders(port: int) -> list[int]:
    """Return the pids that listen on a port, as far as this user may see them."""
    inodes = listeners(port)
    if not inodes:
        return []
    return [int(name) for name in os.listdir(PROC) if name.isdigit() and has_socket(int(name), inodes)]


def is_held_by(port: int, pids: Iterable[int]) -> bool | None:
    """Whether one of these processes listens on a port; None if nobody can be seen to listen."""
    inodes = listeners(port)
    if not inodes:
        return None
    return any(has_socket(pid, inodes) for pid in pids)


def is_free(port: int) -> bool:
    """Whether a server could listen on a port of this machine now."""
    addresses: list[tuple[int, str]] = [(socket.AF_INET, "")]
    if socket.has_ipv6:
        addresses.append((socket.AF_INET6, "::"))
    for family, address in addresses:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def chosen_range() -> tuple[int, int]:
    """Return the first and the last port that a free one is chosen from.

    Not one of those that the kernel gives to outgoing connections: a server that is started again on its port would
    find it taken by some client. The last is below the first if nothing is known of the kernel's ports.
    """
    return LOWEST_CHOSEN, first_ephemeral() - 1


def free_port(between: tuple[int, int] | None = None) -> int:
    """Return a port that is free at this moment, of `chosen_range` or of a part of it."""
    first, last = between or chosen_range()
    for _ in range(ATTEMPTS if last >= first else 0):
        port = first + int.from_bytes(os.urandom(4), "big") % (last - first + 1)
        if is_free(port):
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        chosen: int = probe.getsockname()[1]
        return chosen


def first_ephemeral() -> int:
    """Return the first port that the kernel gives to outgoing connections, or 0 if that is not known."""
    try:
        with open(PROC + "/sys/net/ipv4/ip_local_port_range") as file:
            return int(file.read().split()[0])
    except (OSError, ValueError, IndexError):
        return 0

"""Reads what tools and files say of the memory of GPUs, and decides what a stopped engine has not given back. Pure.

`gpu` fetches the texts and waits. A device's level before a start is what it has to come back to; memory that
belongs to others on the same device is in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Sequence

TOLERANCE_MIB = 64
"""What a device may have more than before a start: the driver's own share moves a little."""

MAX_LINES = 10000
"""Of one answer that are read."""


@dataclass(frozen=True)
class Device:
    """The memory in use on one GPU."""

    index: str
    """As nvidia-smi counts them; the card's name for an AMD GPU."""
    uuid: str
    used_mib: int


@dataclass(frozen=True)
class Holder:
    """A process that has memory of a GPU. In a container the pids are often those of the host, or hidden."""

    pid: int
    uuid: str
    name: str


@dataclass(frozen=True)
class Reading:
    """All GPUs at one moment."""

    devices: tuple[Device, ...]
    holders: tuple[Holder, ...] = ()


@dataclass(frozen=True)
class Leftover:
    """Memory that a GPU has in use beyond what it had before a start."""

    device: str
    mib: int
    holders: tuple[tuple[int, str], ...]
    """(pid, name) of the processes that have memory of the device, as far as they can be seen."""


@dataclass(frozen=True)
class GpuRelease:
    """How the memory of the GPUs came back after a stop."""

    seconds: float
    """How long it was waited for."""
    devices: tuple[str, ...]
    """Those that the engine used."""
    leftovers: tuple[Leftover, ...] = ()


def parse_nvidia(devices: str, holders: str) -> Reading:
    """Read nvidia-smi's `index,uuid,memory.used` and `pid,gpu_uuid,process_name`, in CSV without units and header.

    A line that is not of that form is left out, such as `[N/A]` for a device in parts.
    """
    found = []
    for index, uuid, used in _fields(devices, 3):
        if used.isdigit():
            found.append(Device(index, uuid, int(used)))
    owners = []
    for pid, uuid, name in _fields(holders, 3):
        if pid.isdigit():
            owners.append(Holder(int(pid), uuid, name))
    return Reading(tuple(found), tuple(owners))


def parse_amd(used_bytes: Mapping[str, str]) -> Reading:
    """Read the `mem_info_vram_used` of each card, by the card's name."""
    return Reading(
        tuple(
            Device(card, card, int(text) // (1024 * 1024))
            for card, text in sorted(used_bytes.items())
            if text.strip().isdigit()
        )
    )


def used_devices(before: Reading, during: Reading, pids: Sequence[int], visible: str | None) -> frozenset[str]:
    """Return the UUIDs of the devices that an engine used.

    The driver may say it by pid; else the engine's CUDA_VISIBLE_DEVICES (`visible`) does, by index or UUID; else they
    are all whose memory rose since before the start, which with other engines on the machine may be too many.
    """
    own = set(pids)
    by_pid = frozenset(holder.uuid for holder in during.holders if holder.pid in own)
    if by_pid:
        return by_pid
    levels = {device.uuid: device.used_mib for device in before.devices}
    rose = frozenset(
        device.uuid
        for device in during.devices
        if device.used_mib > levels.get(device.uuid, device.used_mib) + TOLERANCE_MIB
    )
    if visible is None:
        return rose
    names = [name.strip() for name in visible.split(",") if name.strip()]
    return rose & frozenset(
        device.uuid
        for device in during.devices
        if any(name == device.index or device.uuid.startswith(name) for name in names)
    )


def leftovers(before: Reading, now: Reading, devices: frozenset[str]) -> tuple[Leftover, ...]:
    """Return what these devices have in use beyond their level before the start."""
    levels = {device.uuid: device.used_mib for device in before.devices}
    return tuple(
        Leftover(
            device.index,
            device.used_mib - levels[device.uuid],
            tuple((holder.pid, holder.name) for holder in now.holders if holder.uuid == device.uuid),
        )
        for device in now.devices
        if device.uuid in devices and device.uuid in levels and device.used_mib > levels[device.uuid] + TOLERANCE_MIB
    )


def _fields(text: str, count: int) -> list[list[str]]:
    """Return the lines of a CSV that have this many fields; the last one may contain commas."""
    lines = [line.split(",", count - 1) for line in text.splitlines()[:MAX_LINES]]
    return [[field.strip() for field in fields] for fields in lines if len(fields) == count]

"""Asks the machine for its GPUs and their memory: with nvidia-smi, or with rocm-smi. No GPU is an answer too.

`fleet` deals what comes back, `checks` shows it. The two readers of output are pure; they were written from the
programs' documentation, and no machine with a GPU has run them.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass

SECONDS = 20.0
"""nvidia-smi takes seconds where the driver has to be loaded first."""

MAX_ANSWER = 1024 * 1024
NVIDIA = ("nvidia-smi", "--query-gpu=index,memory.total,memory.free", "--format=csv,noheader,nounits")
AMD = ("rocm-smi", "--showmeminfo", "vram", "--json")
MIB = 1024 * 1024


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its driver's program names it."""

    index: str
    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Gpus:
    """The GPUs of a machine."""

    variable: str
    """Which variable chooses among them."""
    found: tuple[Gpu, ...]


def parse_nvidia(text: str) -> tuple[Gpu, ...]:
    """Read lines of `index, MiB in all, MiB free`; a line of another kind is skipped. Pure."""
    matches = re.finditer(r"^\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*$", text, re.M)
    return tuple(Gpu(found[1], int(found[2]) * MIB, int(found[3]) * MIB) for found in matches)


def parse_amd(text: str) -> tuple[Gpu, ...]:
    """Read `{"card0": {"VRAM Total Memory (B)": ..., "VRAM Total Used Memory (B)": ...}}`. Pure."""
    try:
        content = json.loads(text)
    except ValueError:
        return ()
    found = []
    for name, values in content.items() if isinstance(content, dict) else ():
        match = re.match(r"card(\d+)$", name)
        try:
            total = int(values["VRAM Total Memory (B)"])
            used = int(values["VRAM Total Used Memory (B)"])
        except (KeyError, TypeError, ValueError):
            continue
        if match:
            found.append(Gpu(match[1], total, total - used))
    return tuple(found)


def read_gpus() -> Gpus:
    """Return the machine's GPUs; none if no program can say."""
    found = parse_nvidia(_answer_of(NVIDIA))
    if found:
        return Gpus("CUDA_VISIBLE_DEVICES", found)
    found = parse_amd(_answer_of(AMD))
    return Gpus("HIP_VISIBLE_DEVICES" if found else "CUDA_VISIBLE_DEVICES", found)


def _answer_of(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - two programs with fixed words
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout[:MAX_ANSWER].decode("utf-8", "replace") if done.returncode == 0 else ""

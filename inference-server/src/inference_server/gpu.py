"""Waits until a stopped engine's GPU memory has come back. Without a GPU nothing is read and nothing is waited for.

The driver frees memory after the end of a process, on a busy host seconds later, and the next engine on the device
fails until then. `server` begins a watch before a start, tells it when a stop begins, and waits when no process is
left. Each read is on a thread of its own with a limit: nvidia-smi hangs where the driver does. `gpu_memory` decides.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import threading
import time
from typing import Callable, Mapping, Sequence

from inference_server.gpu_memory import GpuRelease, Reading, leftovers, parse_amd, parse_nvidia, used_devices

READ_SECONDS = 10.0
"""How long one read may take. nvidia-smi needs seconds where no process holds the driver."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds between two reads."""

AMD_FILES = "/sys/class/drm/card*/device/mem_info_vram_used"
MAX_ANSWER = 1024 * 1024

Reader = Callable[[], "Reading | None"]


def find_reader() -> Reader | None:
    """Return what reads this machine's GPUs, or None if it has none that can be read."""
    if shutil.which("nvidia-smi") is not None:
        return read_nvidia
    return read_amd if glob.glob(AMD_FILES) else None


def read_nvidia() -> Reading | None:
    """Ask nvidia-smi; return None if it does not answer."""
    devices = _nvidia_smi("--query-gpu=index,uuid,memory.used")
    if devices is None:
        return None
    return parse_nvidia(devices, _nvidia_smi("--query-compute-apps=pid,gpu_uuid,process_name") or "")


def _nvidia_smi(query: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603 - two fixed queries
            ["nvidia-smi", query, "--format=csv,noheader,nounits"],  # noqa: S607 - the one that the machine has
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=READ_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout[:MAX_ANSWER].decode("utf-8", "replace") if done.returncode == 0 else None


def read_amd() -> Reading | None:
    """Read the files of the amdgpu driver."""
    texts = {}
    for path in glob.glob(AMD_FILES):
        try:
            with open(path) as file:
                texts[os.path.basename(os.path.dirname(os.path.dirname(path)))] = file.read(100)
        except OSError:
            continue
    return parse_amd(texts)


class _Read:
    """A read that runs, and what came of it."""

    def __init__(self, read: Reader) -> None:
        self._read = read
        self._reading: Reading | None = None
        self._thread = threading.Thread(target=self._run, name="inference-server-gpu", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._reading = self._read()

    def result(self, timeout: float) -> Reading | None:
        self._thread.join(max(timeout, 0.0))
        return self._reading


class GpuWatch:
    """The memory of the GPUs over one life of a server."""

    def __init__(self, read: Reader) -> None:
        """Begin to read the level before the start, which nothing waits for: an engine takes seconds to need memory."""
        self._read = read
        self._before = _Read(read)
        self._during: _Read | None = None

    def begin_stop(self) -> None:
        """Begin to read which devices the engine uses."""
        self._during = _Read(self._read)

    def wait_for_release(
        self, timeout: float, pids: Sequence[int], environment: Mapping[str, str]
    ) -> GpuRelease | None:
        """Wait at most `timeout` seconds until the devices that the engine used are at their level before the start.

        `pids` and `environment` were the engine's. None: the memory could not be read.
        """
        began = time.monotonic()
        until = began + timeout
        before = self._before.result(timeout)
        during = self._during.result(until - time.monotonic()) if self._during is not None else None
        if before is None or during is None:
            return None
        # AMD's cards have other names in their files than in HIP_VISIBLE_DEVICES.
        visible = environment.get("CUDA_VISIBLE_DEVICES") if self._read is read_nvidia else None
        devices = used_devices(before, during, pids, visible)
        names = tuple(device.index for device in during.devices if device.uuid in devices)
        left = leftovers(before, during, devices)
        pause = FIRST_PAUSE
        while left and time.monotonic() < until:
            now = _Read(self._read).result(until - time.monotonic())
            left = leftovers(before, now, devices) if now is not None else left
            if left:
                time.sleep(max(min(pause, until - time.monotonic()), 0.0))
                pause = min(2 * pause, LONGEST_PAUSE)
        return GpuRelease(time.monotonic() - began, names, left)

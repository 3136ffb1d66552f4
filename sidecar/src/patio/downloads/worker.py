"""The child process that downloads: `python -m patio.downloads.worker`, a job on stdin, events on stdout.

It can be killed at any moment and loses nothing but time. It ends by itself when its stdin does, so a sidecar that was
killed leaves no writing process behind; and when its source is too slow. It has little memory: an answer without an end
costs this process, not the pod. Credentials come with the job only, and no event, message or log has them.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
import time
from pathlib import Path

from patio.downloads import network
from patio.downloads.backends import Backend
from patio.downloads.errors import DownloadError, redacted
from patio.downloads.messages import JOB, Event, Failed, Job
from patio.downloads.stall_detection import StallDetector
from patio.downloads.transfer import download
from patio_protocol.downloads import DownloadReason
from patio_protocol.sources import SourceKind

NICE = 5
"""The sidecar's own loop comes first. With 10, a download on a node without an idle core took a minute to begin."""
TICK = 1.0
"""Seconds between checks of how much the source sends."""
MOST_DATA = 192 * 2**20
"""Bytes of memory of its own; a download with 32 threads takes less than half of it."""
_STACK = 512 * 1024
_LONGEST_MESSAGE = 1000


def main() -> int:
    """Run one job; return 0 if it ended with `Done`."""
    # Events go to a descriptor of their own: a library that prints must not be taken for one.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (MOST_DATA, MOST_DATA))
    threading.stack_size(_STACK)
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    job = JOB.validate_json(line)
    write_lock = threading.Lock()

    def emit(event: Event) -> None:
        with write_lock:
            events.write(event.model_dump_json() + "\n")

    def fail(error: DownloadError) -> None:
        # Libraries put whole answers into their words. Cut after the secrets are out, or half of one may stay.
        message = " ".join(redacted(error.message, job.secrets).split())[:_LONGEST_MESSAGE]
        emit(Failed(reason=error.reason, message=message, retry_after=error.retry_after))

    def watch() -> None:
        last = time.monotonic()
        while True:
            time.sleep(TICK)
            now = time.monotonic()
            # Not what this process slept through.
            message = stalls.tick(min(now - last, 2 * TICK))
            last = now
            if message is not None:
                fail(DownloadError(DownloadReason.SLOW, message))
                os._exit(1)

    stalls = StallDetector()
    threading.Thread(target=watch, name="pace", daemon=True).start()
    try:
        network.prepare(job)
        emit(download(job, backend_of(job), emit, stalls))
    except DownloadError as error:
        fail(error)
        return 1
    except MemoryError:
        message = f"The answer of the source does not fit into {MOST_DATA >> 20} MiB of memory."
        fail(DownloadError(DownloadReason.REJECTED, message))
        return 1
    return 0


def backend_of(job: Job) -> Backend:
    """Return what reads a job's source; its library is imported only here."""
    if job.source.kind is SourceKind.HF:
        from patio.downloads.hf import HuggingFace

        return HuggingFace(job.source, job.config)
    if job.source.kind in (SourceKind.S3, SourceKind.OBS):
        from patio.downloads.s3 import S3

        return S3(job.source, job.config, job.max_workers)
    from patio.downloads.local import Local

    return Local(job.source.path, tuple(Path(root) for root in job.roots))


def _leave_with_parent() -> None:
    """End the process when the other end of stdin is closed."""
    # Not through sys.stdin, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

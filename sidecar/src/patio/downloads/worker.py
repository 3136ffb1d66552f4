"""The child process that downloads: `python -m patio.downloads.worker`, a job on stdin, events on stdout.

It can be killed at any moment and loses nothing but time. It ends by itself when its stdin does: a sidecar that was
killed leaves nobody behind who writes. Credentials come with the job only, and no event, message or log has them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

from patio.api.sources import SourceKind
from patio.downloads.backends import Backend
from patio.downloads.faults import DownloadFault, redacted
from patio.downloads.job import JOB, Event, Failed, Job
from patio.downloads.transfer import download

NICE = 10
"""The engine comes first."""


def main() -> int:
    """Run one job; return 0 if it ended with `Done`."""
    # Events go to a descriptor of their own: a library that prints must not be taken for one.
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    line = sys.stdin.buffer.readline()
    if not line:
        return 1
    threading.Thread(target=_leave_with_parent, name="parent", daemon=True).start()
    job = JOB.validate_json(line)

    def emit(event: Event) -> None:
        events.write(event.model_dump_json() + "\n")

    try:
        emit(download(job, backend_of(job), emit))
    except DownloadFault as fault:
        emit(Failed(reason=fault.reason, message=redacted(fault.message, job.secrets), retry_after=fault.retry_after))
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
    """End the process when nobody holds the other end of stdin any more."""
    # Not through sys.stdin, whose lock a thread must not hold when the interpreter ends.
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

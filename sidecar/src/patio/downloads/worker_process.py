"""Starts one worker, gives it its job, passes its events on, and sees that it is gone in the end.

The parent's end of `messages`. A worker that is cancelled is killed: what it wrote is where the next one goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Callable, Mapping

from patio.downloads.errors import DownloadError, redacted
from patio.downloads.messages import EVENT, JOB, Done, Event, Failed, Job
from patio_protocol.downloads import DownloadReason

log = logging.getLogger(__name__)

PASSED_ON = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "PATH",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPATH",
    "TMPDIR",
    # Certificates and proxies of the network that the pod is in.
    "AWS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "all_proxy",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    # Roles that a cluster gives to a pod: names and places, not the credentials themselves.
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_STS_REGIONAL_ENDPOINTS",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
)
"""Variables that a worker gets; of all others, keys among them, it knows nothing."""

LEAVE_SECONDS = 5.0
"""For a worker that has said its last word."""
_LONGEST_LINE = 1024 * 1024
_STDERR_BYTES = 2000


async def run_worker(job: Job, environ: Mapping[str, str], on_event: Callable[[Event], None]) -> Done:
    """Run one worker to its end and return what it did; raise `DownloadError`. Cancelled, it is killed."""
    spawning = asyncio.create_task(_spawn(environ), name="worker's start")
    try:
        process = await asyncio.shield(spawning)
    except OSError as error:
        message = f"The sidecar cannot start the download process: {error.strerror or error}."
        raise DownloadError(DownloadReason.INTERRUPTED, message) from None
    except asyncio.CancelledError:
        # Python 3.11 to 3.13 wait for ever when a start is cancelled before its pipes are connected.
        process = await spawning
        await _end(process)
        raise
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    reading_stderr = asyncio.create_task(_read_stderr(process.stderr), name="worker's stderr")
    result: Done | Failed | None = None
    try:
        # stdin stays open: when it closes, the worker ends.
        process.stdin.write(JOB.dump_json(job) + b"\n")
        with contextlib.suppress(ConnectionError):
            await process.stdin.drain()
        while line := await process.stdout.readline():
            event = EVENT.validate_json(line)
            if isinstance(event, Done | Failed):
                result = event
                break  # it says nothing more, and may hang on a disk
            on_event(event)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await process.wait()
    except ValueError:  # a line too long, or no event: it is not to be trusted
        result = None
    finally:
        code = await _end(process)
        message = ""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                message = redacted(await reading_stderr, job.secrets)
    if isinstance(result, Done):
        return result
    if isinstance(result, Failed):
        raise DownloadError(result.reason, result.message, result.retry_after)
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    last = message.strip().splitlines()[-1:] or ["none"]
    raise DownloadError(DownloadReason.INTERRUPTED, f"The download process ended {how}. Its last line: {last[0][:300]}")


async def _spawn(environ: Mapping[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "patio.downloads.worker"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={
            # A pod uses the role that the cluster gives it, never the node's.
            "AWS_EC2_METADATA_DISABLED": "true",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONUNBUFFERED": "1",
            **{name: environ[name] for name in PASSED_ON if name in environ},
        },
        limit=_LONGEST_LINE,
    )


async def _end(process: asyncio.subprocess.Process) -> int:
    """See that a worker is gone, and return its exit code."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    assert process.stdin is not None
    process.stdin.close()
    try:
        async with asyncio.timeout(LEAVE_SECONDS):
            return await process.wait()
    except TimeoutError:
        # The kernel ends a process that hangs on a disk when the disk answers; the sidecar does not wait for that.
        log.error("download process does not end, its disk hangs pid=%d", process.pid)
        return -signal.SIGKILL


async def _read_stderr(stream: asyncio.StreamReader) -> str:
    kept = b""
    while chunk := await stream.read(4096):
        kept = (kept + chunk)[-_STDERR_BYTES:]
    return kept.decode(errors="replace")

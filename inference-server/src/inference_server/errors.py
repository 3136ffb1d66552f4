"""The package's errors, and the causes that they can name.

`diagnosis` finds a cause in a log, `server` raises. A caller catches `InferenceServerError` for everything, or one of
its kinds. Nothing here reads or decides anything.
"""

from __future__ import annotations

import enum
from typing import Sequence


class Cause(enum.Enum):
    """Why a server did not start, or ended."""

    UNKNOWN = "unknown"
    NOT_FOUND = "command-not-found"
    WRONG_PYTHON = "engine-not-installed"
    UNKNOWN_OPTION = "unknown-option"
    INVALID_VALUE = "invalid-value"
    PORT_IN_USE = "port-in-use"
    FOREIGN_SERVER = "foreign-server"
    WRONG_MODEL = "wrong-model"
    GATED_MODEL = "gated-model"
    MODEL_NOT_FOUND = "model-not-found"
    OFFLINE = "offline"
    UNSUPPORTED_MODEL = "unsupported-model"
    REMOTE_CODE = "remote-code"
    CORRUPT_WEIGHTS = "corrupt-weights"
    GPU_MEMORY = "gpu-memory"
    GPU_MEMORY_TAKEN = "gpu-memory-taken"
    KV_CACHE_TOO_SMALL = "kv-cache-too-small"
    CONTEXT_TOO_LONG = "context-too-long"
    NO_GPU = "no-gpu"
    DRIVER = "driver"
    TOO_FEW_GPUS = "too-few-gpus"
    CAPABILITY = "compute-capability"
    QUANTIZATION = "quantization"
    PARALLEL_SIZE = "parallel-size"
    NCCL = "nccl"
    SHARED_MEMORY = "shared-memory"
    DISK_FULL = "disk-full"
    FILE_LIMIT = "file-limit"
    MISSING_MODULE = "missing-module"
    ENVIRONMENT = "environment"
    READY_TIMEOUT = "engine-ready-timeout"
    OUT_OF_MEMORY = "out-of-memory"
    ILLEGAL_INSTRUCTION = "illegal-instruction"
    CRASHED = "crashed"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    PROFILER = "profiler"
    KEEPER = "keeper"


class InferenceServerError(Exception):
    """Base of all errors of this package."""


class ServerStartupError(InferenceServerError):
    """The server did not become ready.

    Attributes:
        cause: why, as far as it is known.
        hint: what to change, in a sentence; empty if there is nothing to say.
        log_tail: the last lines of the engine's output.
        exit_code: the engine's, negative for a signal; None if it was still running or never ran.
        command: the command line, with secrets masked.
    """

    def __init__(
        self,
        message: str,
        *,
        cause: Cause = Cause.UNKNOWN,
        hint: str = "",
        log_tail: str = "",
        exit_code: int | None = None,
        command: Sequence[str] = (),
    ) -> None:
        parts = [message]
        if hint:
            parts.append("Hint: " + hint)
        if log_tail:
            parts.append("Last lines of the log:\n" + log_tail)
        super().__init__("\n".join(parts))
        self.message = message
        self.cause = cause
        self.hint = hint
        self.log_tail = log_tail
        self.exit_code = exit_code
        self.command = tuple(command)


class ServerTimeoutError(ServerStartupError):
    """The server was not ready in time, or made no progress for too long."""


class FleetStartupError(ServerStartupError):
    """Servers of a fleet did not become ready, so the others were stopped too.

    Cause, hint, log, exit code and command are those of the first that failed.

    Attributes:
        failures: each server that failed, by its name, with its error.
        stopped: the names of those that were stopped for it.
    """

    def __init__(self, failures: Sequence[tuple[str, BaseException]], stopped: Sequence[str], count: int) -> None:
        first = failures[0][1]
        startup = first if isinstance(first, ServerStartupError) else None
        causes = "; ".join(
            "%s: %s" % (name, error.message if isinstance(error, ServerStartupError) else error)
            for name, error in failures
        )
        super().__init__(
            "%d of %d servers did not start: %s%s"
            % (len(failures), count, causes, ". Stopped for that: %s" % ", ".join(stopped) if stopped else ""),
            cause=startup.cause if startup else Cause.UNKNOWN,
            hint=startup.hint if startup else "",
            log_tail=startup.log_tail if startup else "",
            exit_code=startup.exit_code if startup else None,
            command=startup.command if startup else (),
        )
        self.failures = tuple(failures)
        self.stopped = tuple(stopped)


class CleanupError(InferenceServerError):
    """Processes of the engine were left after a stop. Raised only if `strict_cleanup` is set."""


class ProfileError(InferenceServerError):
    """A profile could not be configured, or the profiler left no file."""


class EngineError(InferenceServerError):
    """A running engine did not do what a call asked for.

    Attributes:
        status: of the engine's answer; None if there was none, or another package asked.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

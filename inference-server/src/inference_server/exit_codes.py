"""Which exit code the command ends with, by cause. Pure.

Scripts tell by the code whether it helps to change the input, the machine or the model, or to try again.
"""

from __future__ import annotations

from typing import Mapping

from inference_server.errors import (
    Cause,
    InferenceServerError,
    ProfileError,
    ServerStartupError,
)

OK = 0
FAILED = 1
WRONG_INPUT = 2
PORT = 3
MODEL = 4
MEMORY = 5
MACHINE = 6
TIME = 7
ENDED = 8
NOT_FOUND = 9
INTERRUPTED = 130
"""As a shell says it: 128 and the number of SIGINT."""

MEANINGS: Mapping[int, str] = {
    OK: "done; a server that was asked to stop has stopped",
    FAILED: "failed for a reason that is not known",
    WRONG_INPUT: "the command line, the configuration, an option or the environment is wrong: change the input",
    PORT: "the port, or the server behind it, is another one's",
    MODEL: "the model cannot be had, or this version of the engine cannot serve it",
    MEMORY: "memory, disk or a limit is too small",
    MACHINE: "GPU, driver or network between GPUs is missing or does not fit",
    TIME: "not ready in time, no progress, or not stopped in time",
    ENDED: "a server ended by itself",
    NOT_FOUND: "no such server runs",
    INTERRUPTED: "Ctrl-C",
}

BY_CAUSE: Mapping[Cause, int] = {
    Cause.UNKNOWN: FAILED,
    Cause.NOT_FOUND: WRONG_INPUT,
    Cause.WRONG_PYTHON: WRONG_INPUT,
    Cause.UNKNOWN_OPTION: WRONG_INPUT,
    Cause.INVALID_VALUE: WRONG_INPUT,
    Cause.PORT_IN_USE: PORT,
    Cause.FOREIGN_SERVER: PORT,
    Cause.WRONG_MODEL: PORT,
    Cause.GATED_MODEL: MODEL,
    Cause.MODEL_NOT_FOUND: MODEL,
    Cause.OFFLINE: MODEL,
    Cause.UNSUPPORTED_MODEL: MODEL,
    Cause.REMOTE_CODE: MODEL,
    Cause.CORRUPT_WEIGHTS: MODEL,
    Cause.GPU_MEMORY: MEMORY,
    Cause.GPU_MEMORY_TAKEN: MEMORY,
    Cause.KV_CACHE_TOO_SMALL: MEMORY,
    Cause.CONTEXT_TOO_LONG: WRONG_INPUT,
    Cause.NO_GPU: MACHINE,
    Cause.DRIVER: MACHINE,
    Cause.TOO_FEW_GPUS: MACHINE,
    Cause.CAPABILITY: MACHINE,
    Cause.QUANTIZATION: WRONG_INPUT,
    Cause.PARALLEL_SIZE: WRONG_INPUT,
    Cause.NCCL: MACHINE,
    Cause.SHARED_MEMORY: MEMORY,
    Cause.DISK_FULL: MEMORY,
    Cause.FILE_LIMIT: MEMORY,
    Cause.MISSING_MODULE: WRONG_INPUT,
    Cause.ENVIRONMENT: WRONG_INPUT,
    Cause.READY_TIMEOUT: TIME,
    Cause.OUT_OF_MEMORY: MEMORY,
    Cause.ILLEGAL_INSTRUCTION: MACHINE,
    Cause.CRASHED: FAILED,
    Cause.TIMEOUT: TIME,
    Cause.STALLED: TIME,
    Cause.PROFILER: WRONG_INPUT,
    Cause.KEEPER: FAILED,
}


def code_of(error: BaseException) -> int:
    """Return the exit code for an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, ServerStartupError):
        return BY_CAUSE.get(error.cause, FAILED)
    if isinstance(error, ProfileError):
        return WRONG_INPUT
    if isinstance(error, InferenceServerError):
        return FAILED
    # What the configuration's readers raise.
    return WRONG_INPUT if isinstance(error, (ValueError, FileNotFoundError, ImportError)) else FAILED

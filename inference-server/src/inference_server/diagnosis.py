"""Finds in an engine's output why it did not start or ended. Pure.

Each rule has the words of a real failure, the cause that they mean, and what to change. Engines print a chain of
errors, of which the last one only points at the others ("See root cause above"), so rules are in order of how much
they say: the first rule that matches any line wins. `server` puts the answer into its error.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from typing import Callable, Match, Pattern, Sequence, Union

from inference_server.errors import Cause

MAX_LINES = 4000
"""The last lines of the output that are looked at."""

MAX_LINE = 2000
"""Characters of a line: some engines print their whole configuration in one."""


@dataclass(frozen=True)
class Diagnosis:
    """Why an engine ended, as far as its output says."""

    cause: Cause
    hint: str
    line: str = ""
    """The line of the output that says it."""


Hint = Union[str, Callable[[Match[str]], str]]


def _fitting_length(match: Match[str]) -> str:
    estimate = re.search(r"estimated maximum model length is (\d+)", match.string)
    if estimate and int(estimate.group(1)) > 0:
        return "the KV cache has room for --max-model-len %s; or raise --gpu-memory-utilization" % estimate.group(1)
    return "lower --max-model-len, or raise --gpu-memory-utilization"


def _rule(cause: Cause, pattern: str, hint: Hint) -> tuple[Cause, Pattern[str], Hint]:
    return cause, re.compile(pattern), hint


_RULES: tuple[tuple[Cause, Pattern[str], Hint], ...] = (
    _rule(
        Cause.UNKNOWN_OPTION,
        r"error: unrecognized arguments: (.+)",
        lambda match: "remove or correct %s" % match.group(1).strip(),
    ),
    _rule(Cause.UNKNOWN_OPTION, r"error: ambiguous option: (\S+)", "write the option out"),
    _rule(
        Cause.INVALID_VALUE,
        r"error: argument (\S+): (?:invalid choice|invalid .* value|expected)",
        lambda match: "correct the value of %s" % match.group(1).rstrip(":"),
    ),
    _rule(
        Cause.PORT_IN_USE, r"[Aa]ddress already in use|EADDRINUSE", "stop what holds the port, or choose another one"
    ),
    _rule(
        Cause.PORT_IN_USE,
        r"(?:port|server) at \d+ is not available",
        "stop what holds the port, or choose another one; SGLang also needs ports near it",
    ),
    _rule(
        Cause.GATED_MODEL,
        r"gated repo|GatedRepoError|Access to model .* is restricted|401 Client Error.*huggingface",
        "accept the model's licence on its page and set HF_TOKEN to a token that may read it",
    ),
    _rule(
        Cause.OFFLINE,
        r"LocalEntryNotFoundError|OfflineModeIsEnabled|couldn't connect to 'https://huggingface\.co'"
        r"|Cannot reach https?://huggingface|outgoing traffic has been disabled",
        "the hub cannot be reached: download the model first, or unset HF_HUB_OFFLINE",
    ),
    _rule(
        Cause.MODEL_NOT_FOUND,
        r"RepositoryNotFoundError|is not a local folder and is not a valid model identifier|Repo id must be in the form"
        r"|Invalid repository ID or local directory|does not appear to have a file named config\.json",
        "check the model's name or path; a private repository also needs HF_TOKEN",
    ),
    _rule(
        Cause.REMOTE_CODE,
        r"trust[_-]remote[_-]code=True|requires you to execute the configuration file"
        r"|contains custom code which must be",
        "the model brings its own code: if you trust it, pass --trust-remote-code",
    ),
    _rule(
        Cause.UNSUPPORTED_MODEL,
        r"Model architectures .* are not supported|does not recognize this architecture"
        r"|No model architectures are specified",
        "this version of the engine does not know the model: a newer engine or newer transformers may",
    ),
    _rule(
        Cause.CORRUPT_WEIGHTS,
        r"Error while deserializing header|SafetensorError|MetadataIncompleteBuffer",
        "a file of weights is not complete: delete it from the cache and download it again",
    ),
    _rule(Cause.KV_CACHE_TOO_SMALL, r"larger than the available KV cache", _fitting_length),
    _rule(
        Cause.KV_CACHE_TOO_SMALL,
        r"No available memory for the cache blocks",
        "raise --gpu-memory-utilization, or take a smaller model or more GPUs",
    ),
    _rule(
        Cause.KV_CACHE_TOO_SMALL,
        r"Not enough memory\. Please try to increase --mem-fraction-static",
        "raise --mem-fraction-static; if that ends in CUDA out of memory, take more GPUs or a smaller model",
    ),
    _rule(
        Cause.GPU_MEMORY_TAKEN,
        r"Free memory on device .* is less than",
        "other processes hold memory of the GPU: stop them, or lower --gpu-memory-utilization",
    ),
    _rule(
        Cause.GPU_MEMORY,
        r"out of memory occurred when warming up",
        "lower --max-num-seqs or --gpu-memory-utilization",
    ),
    _rule(
        Cause.GPU_MEMORY,
        r"OutOfMemoryError|(?:CUDA|HIP) out of memory|CUDA error: out of memory",
        "the model does not fit: more GPUs (--tensor-parallel-size), a smaller --max-model-len, or a quantized model",
    ),
    _rule(
        Cause.CONTEXT_TOO_LONG,
        r"max_model_len \((\d+)\) is greater than the derived max_model_len \(\S*?=(\d+)",
        lambda match: "the model's own limit is --max-model-len %s" % match.group(2),
    ),
    _rule(
        Cause.CAPABILITY,
        r"only supported on GPUs with compute capability|no kernel image is available|minimum capability",
        "the GPU is too old for this type or kernel: try --dtype half, or another GPU",
    ),
    _rule(
        Cause.DRIVER,
        r"NVIDIA driver on your system is too old|CUDA driver version is insufficient|Found no NVIDIA driver"
        r"|libcuda\.so(?:\.1)?: cannot open",
        "the driver of the GPU is missing or too old for this build of the engine",
    ),
    _rule(
        Cause.NO_GPU,
        r"No CUDA GPUs are available|Failed to infer device type|No HIP GPUs are available",
        "no GPU is visible: check the driver, the container's devices and CUDA_VISIBLE_DEVICES",
    ),
    _rule(
        Cause.TOO_FEW_GPUS,
        r"World size \((\d+)\) is larger than the number of available GPUs \((\d+)\)",
        lambda match: "%s GPUs are needed and %s are visible" % (match.group(1), match.group(2)),
    ),
    _rule(Cause.TOO_FEW_GPUS, r"invalid device ordinal", "fewer GPUs are visible than the parallel sizes need"),
    _rule(
        Cause.PARALLEL_SIZE,
        r"attention heads \((\d+)\) must be divisible by tensor parallel size",
        lambda match: "choose a --tensor-parallel-size that divides %s" % match.group(1),
    ),
    _rule(
        Cause.QUANTIZATION,
        r"Unknown quantization method|quantization method .* is not supported|Cannot find the config file for",
        "leave --quantization out, so that the engine reads it from the model, or choose one that it lists",
    ),
    # Before NCCL: too little shared memory is why NCCL fails then.
    _rule(
        Cause.SHARED_MEMORY,
        r"creating shared memory segment|[Bb]us error|insufficient shared memory|attaching to shared memory segment",
        "/dev/shm is too small: docker run --ipc=host or --shm-size, or an emptyDir with medium Memory",  # noqa: S108 - a text
    ),
    _rule(Cause.DISK_FULL, r"No space left on device|Disk quota exceeded", "free space where the log names it"),
    _rule(
        Cause.NCCL,
        r"NCCL error|ncclSystemError|ncclUnhandledCudaError",
        "run it with NCCL_DEBUG=INFO in env_vars; the usual causes are /dev/shm, the network interface, or a dead peer",
    ),
    _rule(Cause.FILE_LIMIT, r"Too many open files", "raise the limit of open files (ulimit -n)"),
    _rule(
        Cause.ENVIRONMENT,
        r"VLLM_PORT '.*' appears to be a URI",
        "Kubernetes sets VLLM_PORT for a Service named vllm: rename the Service, or set enableServiceLinks: false",
    ),
    _rule(
        Cause.WRONG_PYTHON,
        r"No module named '?(vllm|sglang)(?:[.'\s]|$)",
        lambda match: "%s is not installed for this interpreter: set config['binary_path']" % match.group(1),
    ),
    _rule(
        Cause.MISSING_MODULE,
        r"ModuleNotFoundError: No module named '([^']+)'",
        lambda match: "install %s where the engine is installed" % match.group(1).split(".")[0],
    ),
    _rule(
        Cause.MISSING_MODULE,
        r"ImportError: (\S+): cannot open shared object file",
        lambda match: "a system library is missing: %s" % match.group(1).rstrip(":"),
    ),
    _rule(
        Cause.READY_TIMEOUT,
        r"Timed out waiting for engine core processes|Did not receive response from .* engine",
        "the engine's own limit ended the start: set VLLM_ENGINE_READY_TIMEOUT_S in env_vars",
    ),
)

_BY_SIGNAL = {
    int(signal.SIGKILL): (
        Cause.OUT_OF_MEMORY,
        "something killed it with SIGKILL, most often the kernel or the container for want of memory",
    ),
    int(signal.SIGILL): (
        Cause.ILLEGAL_INSTRUCTION,
        "this build of the engine uses instructions that the processor does not have",
    ),
    int(signal.SIGSEGV): (Cause.CRASHED, "it crashed in native code (SIGSEGV)"),
    int(signal.SIGABRT): (Cause.CRASHED, "it aborted in native code (SIGABRT)"),
    int(signal.SIGBUS): (Cause.SHARED_MEMORY, "a bus error: /dev/shm or a file's disk is full"),
}


def diagnose(lines: Sequence[str], exit_code: int | None = None) -> Diagnosis:
    """Return why an engine ended, by its output and exit code (negative for a signal)."""
    recent = [line[:MAX_LINE] for line in lines[-MAX_LINES:]]
    for cause, pattern, hint in _RULES:
        for line in recent:
            match = pattern.search(line)
            if match:
                return Diagnosis(cause, hint if isinstance(hint, str) else hint(match), line.strip())
    if exit_code is not None and -exit_code in _BY_SIGNAL:
        return Diagnosis(*_BY_SIGNAL[-exit_code])
    return Diagnosis(Cause.UNKNOWN, "")

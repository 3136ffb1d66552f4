"""Why an engine ended, from the words of real failures. Each sample names where the words come from."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference_server.diagnosis import MAX_LINES, diagnose
from inference_server.errors import Cause

POINTER = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)
"""How vLLM 0.32.0 ends whatever the cause was (v1/engine/utils.py)."""

SAMPLES: list[tuple[str, str, Cause, str]] = [
    (
        "Python's argparse, as vLLM 0.32.0 prints it",
        "api_server.py: error: unrecognized arguments: --disable-log-requests",
        Cause.UNKNOWN_OPTION,
        "--disable-log-requests",
    ),
    (
        "Python's argparse, as SGLang 0.5.23 prints it",
        "launch_server.py: error: ambiguous option: --max could match --max-running-requests, --max-total-tokens",
        Cause.UNKNOWN_OPTION,
        "write the option out",
    ),
    (
        "Python's argparse, as vLLM 0.32.0 prints it",
        'api_server.py: error: argument --kv-cache-dtype: invalid choice: \'{"auto": "fp8"}\' (choose from auto, fp8)',
        Cause.INVALID_VALUE,
        "--kv-cache-dtype",
    ),
    (
        "vLLM 0.32.0: its socket is bound before the engine starts",
        "OSError: [Errno 98] Address already in use",
        Cause.PORT_IN_USE,
        "another one",
    ),
    (
        "SGLang 0.5.23, srt/utils/network.py",
        "ValueError: port at 30000 is not available in 30 seconds. ",
        Cause.PORT_IN_USE,
        "SGLang",
    ),
    (
        "sgl-project/sglang#14644",
        "OSError: You are trying to access a gated repo.",
        Cause.GATED_MODEL,
        "HF_TOKEN",
    ),
    (
        "huggingface/optimum-neuron#535",
        "huggingface_hub.utils._errors.GatedRepoError: 401 Client Error. (Request ID: Root=1-6604c5e0)",
        Cause.GATED_MODEL,
        "HF_TOKEN",
    ),
    (
        "opea-project/GenAIExamples#2237, vLLM 0.10.0 on a CPU",
        "requests.exceptions.HTTPError: 401 Client Error: Unauthorized for url: "
        "https://huggingface.co/meta-llama/Meta-Llama-3-8B-Instruct/resolve/main/config.json",
        Cause.GATED_MODEL,
        "HF_TOKEN",
    ),
    (
        "huggingface_hub, with HF_HUB_OFFLINE=1 and an empty cache",
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder",
        Cause.OFFLINE,
        "HF_HUB_OFFLINE",
    ),
    (
        "transformers, a name that does not exist",
        "OSError: meta-lama/Llama-2 is not a local folder and is not a valid model identifier listed on "
        "'https://huggingface.co/models'",
        Cause.MODEL_NOT_FOUND,
        "name or path",
    ),
    (
        "vLLM 0.32.0, transformers_utils/config.py",
        "RuntimeError: Failed to load the model config. If the model is a custom model not yet available in the "
        "HuggingFace transformers library, consider setting `trust_remote_code=True` in LLM",
        Cause.REMOTE_CODE,
        "--trust-remote-code",
    ),
    (
        "vLLM 0.32.0, model_executor/models/registry.py",
        "ValueError: Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures: ...",
        Cause.UNSUPPORTED_MODEL,
        "newer",
    ),
    (
        "safetensors, recorded with vLLM 0.32.0 and a file cut in two",
        "Error while deserializing header: incomplete metadata, file not fully covered",
        Cause.CORRUPT_WEIGHTS,
        "download",
    ),
    (
        "vLLM 0.32.0, v1/core/kv_cache_utils.py",
        "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is "
        "needed, which is larger than the available KV cache memory (2.5 GiB). Based on the available memory, the "
        "estimated maximum model length is 20480. Try increasing `gpu_memory_utilization`",
        Cause.KV_CACHE_TOO_SMALL,
        "--max-model-len 20480",
    ),
    (
        "vLLM 0.32.0, v1/core/kv_cache_utils.py",
        "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when",
        Cause.KV_CACHE_TOO_SMALL,
        "--gpu-memory-utilization",
    ),
    (
        "sgl-project/sglang#4330",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
        Cause.KV_CACHE_TOO_SMALL,
        "--mem-fraction-static",
    ),
    (
        "vLLM 0.32.0, v1/worker/utils.py",
        "ValueError: Free memory on device cuda:0 (3.1/79.2 GiB) on startup is less than desired GPU memory "
        "utilization (0.9, 71.3 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.",
        Cause.GPU_MEMORY_TAKEN,
        "other processes",
    ),
    (
        "vllm-project/vllm#17939",
        "ERROR 05-10 16:00:15 [multiproc_executor.py:470] RuntimeError: CUDA out of memory occurred when warming up "
        "sampler with 256 dummy requests. Please try lowering `max_num_seqs` or `gpu_memory_utilization`",
        Cause.GPU_MEMORY,
        "--max-num-seqs",
    ),
    (
        "vllm-project/vllm#26863",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 232.00 MiB. GPU 0 has a total capacity",
        Cause.GPU_MEMORY,
        "--tensor-parallel-size",
    ),
    (
        "vLLM 0.32.0, config/model.py",
        "ValueError: User-specified max_model_len (99999) is greater than the derived max_model_len "
        "(max_position_embeddings=4096 or model_max_length=None in model's config.json).",
        Cause.CONTEXT_TOO_LONG,
        "--max-model-len 4096",
    ),
    (
        "vLLM 0.32.0, platforms/cuda.py",
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. Your Tesla T4 GPU has",
        Cause.CAPABILITY,
        "--dtype half",
    ),
    (
        "PyTorch, torch/csrc/cuda",
        "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
        Cause.DRIVER,
        "driver",
    ),
    ("PyTorch, c10/cuda", "RuntimeError: No CUDA GPUs are available", Cause.NO_GPU, "CUDA_VISIBLE_DEVICES"),
    (
        "vLLM 0.32.0, config/device.py",
        "RuntimeError: Failed to infer device type, please set the environment variable",
        Cause.NO_GPU,
        "CUDA_VISIBLE_DEVICES",
    ),
    (
        "vLLM 0.32.0, config/parallel.py",
        "ValueError: World size (4) is larger than the number of available GPUs (1) in this node.",
        Cause.TOO_FEW_GPUS,
        "4 GPUs are needed and 1 are visible",
    ),
    (
        "vLLM 0.32.0, config/model.py",
        "ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4).",
        Cause.PARALLEL_SIZE,
        "divides 14",
    ),
    (
        "vLLM 0.32.0, config/model.py",
        "ValueError: Unknown quantization method: foo. Must be one of ['awq', 'fp8'].",
        Cause.QUANTIZATION,
        "--quantization",
    ),
    (
        "MiniMax-AI/MiniMax-01#42",
        "NCCL WARN Error while creating shared memory segment /dev/shm/nccl-xxxxx (size 7340384)",
        Cause.SHARED_MEMORY,
        "--shm-size",
    ),
    (
        "vllm-project/vllm#18831",
        "RuntimeError: NCCL error: unhandled system error (run with NCCL_DEBUG=INFO for details)",
        Cause.NCCL,
        "NCCL_DEBUG",
    ),
    ("Linux, ENOSPC", "OSError: [Errno 28] No space left on device: '/var/lib/models'", Cause.DISK_FULL, "free space"),
    ("Linux, EMFILE", "OSError: [Errno 24] Too many open files", Cause.FILE_LIMIT, "ulimit"),
    (
        "vLLM 0.32.0, envs.py",
        "ValueError: VLLM_PORT 'tcp://10.0.0.1:8000' appears to be a URI. This may be caused by a Kubernetes service",
        Cause.ENVIRONMENT,
        "enableServiceLinks",
    ),
    ("CPython's runpy", "/usr/bin/python: No module named vllm", Cause.WRONG_PYTHON, "binary_path"),
    (
        "CPython",
        "ModuleNotFoundError: No module named 'flashinfer.comm'",
        Cause.MISSING_MODULE,
        "install flashinfer",
    ),
    (
        "the loader of glibc, vLLM 0.32.0 on a CPU without libnuma",
        "ImportError: libnuma.so.1: cannot open shared object file: No such file or directory",
        Cause.MISSING_MODULE,
        "libnuma.so.1",
    ),
    (
        "vLLM 0.32.0, v1/engine/core_client.py",
        "TimeoutError: Timed out waiting for engine core processes to start. This is often caused by",
        Cause.READY_TIMEOUT,
        "VLLM_ENGINE_READY_TIMEOUT_S",
    ),
]


@pytest.mark.parametrize(("source", "line", "cause", "hint"), SAMPLES)
def test_words_of_a_real_failure_have_their_cause(source: str, line: str, cause: Cause, hint: str) -> None:
    log = [
        "INFO 11-27 vLLM API server version 0.32.0",
        f"(EngineCore pid=7) {line}",
        "Traceback (most recent call last):",
    ]
    found = diagnose([*log, POINTER], exit_code=1)
    assert found.cause is cause, source
    assert hint in found.hint
    assert line.strip() in found.line


def test_at_least_twenty_causes_are_told_apart() -> None:
    assert len({cause for _, _, cause, _ in SAMPLES}) >= 20


@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [
        (-signal.SIGKILL, Cause.OUT_OF_MEMORY),
        (-signal.SIGILL, Cause.ILLEGAL_INSTRUCTION),
        (-signal.SIGSEGV, Cause.CRASHED),
        (-signal.SIGBUS, Cause.SHARED_MEMORY),
        (1, Cause.UNKNOWN),
        (None, Cause.UNKNOWN),
    ],
)
def test_signal_is_a_cause_if_the_log_says_nothing(exit_code: int | None, cause: Cause) -> None:
    assert diagnose([POINTER], exit_code).cause is cause


def test_log_of_a_good_start_has_no_cause() -> None:
    lines = [
        "INFO non-default args: {'model': 'm', 'trust_remote_code': False}",
        "INFO Available KV cache memory: 2.50 GiB",
        "INFO:     Application startup complete.",
    ]
    assert diagnose(lines).cause is Cause.UNKNOWN


def test_words_before_the_last_lines_are_not_looked_at() -> None:
    assert diagnose(["Too many open files", *["x"] * MAX_LINES]).cause is Cause.UNKNOWN
    assert diagnose(["Too many open files", *["x"] * (MAX_LINES - 1)]).cause is Cause.FILE_LIMIT


@given(st.lists(st.text(max_size=300), max_size=20), st.none() | st.integers(-64, 255))
def test_any_log_has_an_answer(lines: list[str], exit_code: int | None) -> None:
    assert isinstance(diagnose(lines, exit_code).cause, Cause)

"""What a double is started with: one immutable value, however it was written (flags, variables, keywords).

The names are those of the engines' own flags. Only what changes an answer is here; every other flag of a real engine
is accepted by the command line and has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class EngineKind(StrEnum):
    """Which engine is doubled."""

    VLLM = "vllm"
    SGLANG = "sglang"


@dataclass(frozen=True)
class Settings:
    """How the doubled engine was started."""

    engine: EngineKind = EngineKind.VLLM
    host: str = "127.0.0.1"
    port: int = 8000
    model: str = "/models/tiny"
    """Path of the base model; never opened."""
    served_model_names: tuple[str, ...] = ("tiny",)
    max_model_len: int = 512

    enable_lora: bool = True
    runtime_lora: bool = True
    """vLLM: `VLLM_ALLOW_RUNTIME_LORA_UPDATING`."""
    lora_modules: tuple[tuple[str, str], ...] = ()
    """Adapters loaded at the start: vLLM `--lora-modules`, SGLang `--lora-paths`."""
    max_loras: int = 2
    """How many adapters one batch can mix: vLLM `--max-loras`, SGLang `--max-loras-per-batch`."""
    max_loaded_loras: int | None = None
    """SGLang: how many adapters stay loaded; one more evicts the least recently used."""
    max_lora_rank: int = 16
    lora_target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    """SGLang rejects adapters of other modules. vLLM loads them with 200 and they do nothing."""

    api_key: str | None = field(default=None, repr=False)
    admin_api_key: str | None = field(default=None, repr=False)
    enable_metrics: bool = True
    """SGLang: `--enable-metrics`; vLLM always has metrics."""
    profiler: bool = False
    """vLLM: `--profiler-config` was given. SGLang always has a profiler."""
    dp_size: int = 1

    max_num_seqs: int = 8
    tokens_per_second: float = 0.0
    """Speed of one request; 0 answers at once."""
    startup_seconds: float = 0.0
    """How long the port stays closed."""
    warmup_seconds: float = 0.0
    """SGLang: how long `/ready` and `/health` are 503 once the port is open."""
    health_seconds: float = 1.0
    """SGLang: how long `/health` takes."""
    health_timeout_seconds: float = 20.0
    """SGLang: after how long `/health` gives up on a paused server (SGLANG_HEALTH_CHECK_TIMEOUT)."""

    one_process: bool = False
    """vLLM: the executor `uni`, that of one GPU, whose errors lack "Worker failed"."""
    tokenizer_workers: int = 1
    """SGLang: `--tokenizer-worker-num`; each has adapters of its own, and answers what happens to reach it."""
    lists_adapters: bool = True
    """SGLang before 0.5.6 has no adapters in `/v1/models`."""

    lora_load_seconds: float = 0.0
    """How long the load of an adapter takes, as those of large ones do."""

    nodes: int = 1
    """SGLang: `--nnodes`, how many processes are one engine."""
    node_rank: int = 0
    dist_init_addr: str = ""
    """`host:port` where the nodes meet: the first one's."""

    @property
    def base_model(self) -> str:
        """The first served name, under which adapters have their parent."""
        return self.served_model_names[0]

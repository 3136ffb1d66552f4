"""Command lines: the double's own, and those of the engines it stands for, so that pod templates look real.

All of these start the same server::

    python -m engine_double --engine sglang --port 8000 --served-model-name tiny
    python -m engine_double vllm serve /models/tiny --enable-lora --dtype bfloat16
    python -m engine_double -m vllm.entrypoints.openai.api_server --model /models/tiny --enable-lora
    python -m engine_double -m sglang.launch_server --model-path /models/tiny --enable-lora

Flags of a real engine that change no answer are named in a note and otherwise ignored. Pure: argv in, settings out.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from engine_double.settings import EngineKind, Settings

MODULES = {
    "sglang.launch_server": EngineKind.SGLANG,
    "launch_server": EngineKind.SGLANG,
    "vllm.entrypoints.openai.api_server": EngineKind.VLLM,
}
"""What `python -m` starts, and which engine that is."""


def settings_from(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """Understand a command line.

    Returns:
        The settings, and the arguments that were ignored.
    """
    words = list(argv)
    implied: EngineKind | None = None
    if words[:1] == ["vllm"]:
        words = words[1:]
    if words[:1] == ["serve"]:
        implied, words = EngineKind.VLLM, words[1:]
        if words and not words[0].startswith("-"):
            words = ["--model", *words]
    for module, kind in MODULES.items():
        for prefix in (["-m", module], [module]):
            if words[: len(prefix)] == prefix:
                implied, words = kind, words[len(prefix) :]
    known, ignored = _parser().parse_known_args(words)
    chosen = EngineKind(known.engine) if known.engine else implied or EngineKind.VLLM
    given: dict[str, Any] = {
        "engine": chosen,
        "host": known.host,
        "port": known.port,
        "model": known.model,
        "served_model_names": tuple(known.served_model_name or (known.model,)),
        "max_model_len": known.max_model_len,
        "lora_modules": tuple(_name_and_path(text) for text in known.lora_modules),
        "max_loras": known.max_loras,
        "max_loaded_loras": known.max_loaded_loras,
        "max_lora_rank": known.max_lora_rank,
        "lora_target_modules": tuple(known.lora_target_modules),
        "api_key": known.api_key or (environment.get("VLLM_API_KEY") if chosen is EngineKind.VLLM else None) or None,
        "admin_api_key": known.admin_api_key,
        "enable_metrics": known.enable_metrics or chosen is EngineKind.VLLM,
        "enable_lora": known.enable_lora,
        "runtime_lora": environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() in ("1", "true"),
        "profiler": known.profiler_config is not None,
        "dp_size": known.dp_size,
        "tokenizer_workers": known.tokenizer_worker_num,
        "max_num_seqs": known.max_num_seqs,
        "tokens_per_second": known.tokens_per_second,
        "startup_seconds": known.startup_seconds,
        "warmup_seconds": known.warmup_seconds,
        "health_seconds": known.health_seconds,
        "lora_load_seconds": known.lora_load_seconds,
        "nodes": known.nnodes,
        "node_rank": known.node_rank,
        "dist_init_addr": known.dist_init_addr,
    }
    return Settings(**given), ignored


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="engine_double", description=__doc__.splitlines()[0], allow_abbrev=False)
    defaults = Settings()
    parser.add_argument("--engine", choices=[kind.value for kind in EngineKind])
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=defaults.port)
    parser.add_argument("--model", "--model-path", default=defaults.model)
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", "--context-length", type=int, default=defaults.max_model_len)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--lora-modules", "--lora-paths", nargs="*", default=[], metavar="NAME=PATH")
    parser.add_argument("--max-loras", "--max-loras-per-batch", type=int, default=defaults.max_loras)
    parser.add_argument("--max-loaded-loras", type=int)
    parser.add_argument("--max-lora-rank", type=int, default=defaults.max_lora_rank)
    parser.add_argument("--lora-target-modules", nargs="+", default=list(defaults.lora_target_modules))
    parser.add_argument("--api-key")
    parser.add_argument("--admin-api-key")
    parser.add_argument("--enable-metrics", action="store_true")
    parser.add_argument("--profiler-config")
    parser.add_argument("--dp-size", "--data-parallel-size", type=int, default=defaults.dp_size)
    parser.add_argument("--tokenizer-worker-num", type=int, default=defaults.tokenizer_workers)
    parser.add_argument("--max-num-seqs", "--max-running-requests", type=int, default=defaults.max_num_seqs)
    parser.add_argument("--nnodes", type=int, default=defaults.nodes)
    parser.add_argument("--node-rank", type=int, default=defaults.node_rank)
    parser.add_argument("--dist-init-addr", default=defaults.dist_init_addr)
    own = parser.add_argument_group("flags of the double itself")
    own.add_argument(
        "--tokens-per-second", type=float, default=defaults.tokens_per_second, help="speed of a request; 0: no delay"
    )
    own.add_argument(
        "--startup-seconds", type=float, default=defaults.startup_seconds, help="seconds until the port opens"
    )
    own.add_argument(
        "--warmup-seconds", type=float, default=defaults.warmup_seconds, help="SGLang: seconds of /ready 503"
    )
    own.add_argument(
        "--health-seconds", type=float, default=defaults.health_seconds, help="SGLang: seconds that /health takes"
    )
    own.add_argument(
        "--lora-load-seconds", type=float, default=defaults.lora_load_seconds, help="seconds that a load takes"
    )
    return parser


def _name_and_path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path

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
    arguments = list(argv)
    implied_engine: EngineKind | None = None
    if arguments[:1] == ["vllm"]:
        arguments = arguments[1:]
    if arguments[:1] == ["serve"]:
        implied_engine, arguments = EngineKind.VLLM, arguments[1:]
        if arguments and not arguments[0].startswith("-"):
            arguments = ["--model", *arguments]
    for module, kind in MODULES.items():
        for prefix in (["-m", module], [module]):
            if arguments[: len(prefix)] == prefix:
                implied_engine, arguments = kind, arguments[len(prefix) :]
    options, ignored = _parser().parse_known_args(arguments)
    engine = EngineKind(options.engine) if options.engine else implied_engine or EngineKind.VLLM
    fields: dict[str, Any] = {
        "engine": engine,
        "host": options.host,
        "port": options.port,
        "model": options.model,
        "served_model_names": tuple(options.served_model_name or (options.model,)),
        "max_model_len": options.max_model_len,
        "lora_modules": tuple(_name_and_path(text) for text in options.lora_modules),
        "max_loras": options.max_loras,
        "max_loaded_loras": options.max_loaded_loras,
        "max_lora_rank": options.max_lora_rank,
        "lora_target_modules": tuple(options.lora_target_modules),
        "api_key": options.api_key or (environment.get("VLLM_API_KEY") if engine is EngineKind.VLLM else None) or None,
        "admin_api_key": options.admin_api_key,
        "enable_metrics": options.enable_metrics or engine is EngineKind.VLLM,
        "enable_lora": options.enable_lora,
        "runtime_lora": environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "").lower() in ("1", "true"),
        "profiler": options.profiler_config is not None,
        "dp_size": options.dp_size,
        "tokenizer_workers": options.tokenizer_worker_num,
        "max_num_seqs": options.max_num_seqs,
        "tokens_per_second": options.tokens_per_second,
        "startup_seconds": options.startup_seconds,
        "warmup_seconds": options.warmup_seconds,
        "health_seconds": options.health_seconds,
        "lora_load_seconds": options.lora_load_seconds,
        "nodes": options.nnodes,
        "node_rank": options.node_rank,
        "dist_init_addr": options.dist_init_addr,
    }
    return Settings(**fields), ignored


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
    double_flags = parser.add_argument_group("flags of the double itself")
    double_flags.add_argument(
        "--tokens-per-second", type=float, default=defaults.tokens_per_second, help="speed of a request; 0: no delay"
    )
    double_flags.add_argument(
        "--startup-seconds", type=float, default=defaults.startup_seconds, help="seconds until the port opens"
    )
    double_flags.add_argument(
        "--warmup-seconds", type=float, default=defaults.warmup_seconds, help="SGLang: seconds of /ready 503"
    )
    double_flags.add_argument(
        "--health-seconds", type=float, default=defaults.health_seconds, help="SGLang: seconds that /health takes"
    )
    double_flags.add_argument(
        "--lora-load-seconds", type=float, default=defaults.lora_load_seconds, help="seconds that a load takes"
    )
    return parser


def _name_and_path(text: str) -> tuple[str, str]:
    name, separator, path = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path

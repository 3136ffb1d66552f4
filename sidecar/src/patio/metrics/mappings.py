"""The vocabulary as data: standard families, and which of an engine's families each is made from.

A new engine is one more table in `SOURCES`; the first source present is taken, so newer names stand before older ones,
and no version string is ever asked. A name is a rename; `Derived` says how else, with a function of `derived`;
`Supplied` stands for what no metric of that engine has. `rewrite` compiles these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from patio.metrics.derived import (
    Derivation,
    http_responses,
    kv_cache_tokens,
    lora_slots,
    lora_slots_used,
    sum_over,
    waiting_by_reason,
)
from patio_protocol.engines import EngineKind


@dataclass(frozen=True, slots=True)
class Family:
    """A standard family: its type and what HELP says, whatever the engine says."""

    name: str
    type: str
    help: str


@dataclass(frozen=True, slots=True)
class Derived:
    """A source whose samples are not taken as they are."""

    family: str
    derivation: Derivation
    description: str
    """What is done, for the documentation."""


@dataclass(frozen=True, slots=True)
class Supplied:
    """A source outside the metrics: the scraper supplies it."""

    description: str


Source = str | Derived | Supplied

GAUGE, COUNTER, HISTOGRAM = "gauge", "counter", "histogram"

STANDARD: tuple[Family, ...] = (
    Family("num_requests_running", GAUGE, "Requests in execution."),
    Family("num_requests_waiting", GAUGE, "Requests queued."),
    Family("num_requests_waiting_by_reason", GAUGE, "Requests queued, by why they wait."),
    Family("input_tokens_total", COUNTER, "Prompt tokens processed."),
    Family("output_tokens_total", COUNTER, "Tokens generated."),
    Family("generation_tokens_total", COUNTER, "Tokens generated; the same as output_tokens_total."),
    Family("time_to_first_token_seconds", HISTOGRAM, "Seconds from a request's arrival to its first token."),
    Family("inter_token_latency_seconds", HISTOGRAM, "Seconds between two tokens, one observation for each token."),
    Family(
        "time_per_output_token_seconds",
        HISTOGRAM,
        "Mean seconds between a request's tokens, one observation for each request.",
    ),
    Family("e2e_request_latency_seconds", HISTOGRAM, "Seconds from a request's arrival to its end."),
    Family("request_queue_time_seconds", HISTOGRAM, "Seconds that a request waited."),
    Family("request_prefill_time_seconds", HISTOGRAM, "Seconds of a request in prefill."),
    Family("request_decode_time_seconds", HISTOGRAM, "Seconds of a request in decode."),
    Family("request_prompt_tokens", HISTOGRAM, "Prompt tokens of a request."),
    Family("request_output_tokens", HISTOGRAM, "Tokens generated for a request."),
    Family("kv_cache_usage_ratio", GAUGE, "Used share of the KV cache, 0 to 1."),
    Family("gpu_cache_usage_perc", GAUGE, "Used share of the KV cache, 0 to 1; the same as kv_cache_usage_ratio."),
    Family("kv_cache_capacity_tokens", GAUGE, "Tokens that fit in the KV cache."),
    Family("prefix_cache_queries_total", COUNTER, "Prompt tokens looked up in the prefix cache."),
    Family("prefix_cache_hits_total", COUNTER, "Prompt tokens found in the prefix cache."),
    Family("prefix_cache_hit_ratio", GAUGE, "Share of recent prompt tokens found in the prefix cache, 0 to 1."),
    Family("prompt_tokens_cached_total", COUNTER, "Prompt tokens that were not computed, since a cache had them."),
    Family("preemptions_total", COUNTER, "Requests put back into the queue."),
    Family("requests_finished_total", COUNTER, "Requests finished."),
    Family("request_errors_total", COUNTER, "Requests rejected or aborted."),
    Family(
        "http_responses_total",
        COUNTER,
        "HTTP responses, by class of status; without probes, metrics, lists, and loads and unloads of adapters.",
    ),
    Family("spec_decode_acceptance_ratio", GAUGE, "Share of drafted tokens that were accepted, 0 to 1."),
    Family("lora_slots", GAUGE, "Adapters that fit in one batch."),
    Family("lora_slots_used", GAUGE, "Adapter slots occupied now."),
    Family("model_context_tokens", GAUGE, "Longest context that the model takes, in tokens."),
    Family("engine_sleep_state", GAUGE, "1 for the state of the engine's sleep mode, 0 for the others."),
)

SOURCES: Mapping[EngineKind, Mapping[str, tuple[Source, ...]]] = {
    EngineKind.VLLM: {
        "num_requests_running": ("vllm:num_requests_running",),
        "num_requests_waiting": ("vllm:num_requests_waiting",),
        "num_requests_waiting_by_reason": (
            Derived("vllm:num_requests_waiting_by_reason", waiting_by_reason, "unknown reasons as other"),
        ),
        "input_tokens_total": ("vllm:prompt_tokens_total",),
        "output_tokens_total": ("vllm:generation_tokens_total",),
        "generation_tokens_total": ("vllm:generation_tokens_total",),
        "time_to_first_token_seconds": ("vllm:time_to_first_token_seconds",),
        # Old vLLM observes every token in time_per_output_token_seconds: an inter-token latency under another name.
        "inter_token_latency_seconds": ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"),
        "time_per_output_token_seconds": (
            "vllm:request_time_per_output_token_seconds",
            "vllm:time_per_output_token_seconds",
        ),
        "e2e_request_latency_seconds": ("vllm:e2e_request_latency_seconds",),
        # The older name came first and was deprecated in 0.8: the same time, without its unit.
        "request_queue_time_seconds": ("vllm:request_queue_time_seconds", "vllm:time_in_queue_requests"),
        "request_prefill_time_seconds": ("vllm:request_prefill_time_seconds",),
        "request_decode_time_seconds": ("vllm:request_decode_time_seconds",),
        "request_prompt_tokens": ("vllm:request_prompt_tokens",),
        "request_output_tokens": ("vllm:request_generation_tokens",),
        "kv_cache_usage_ratio": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "gpu_cache_usage_perc": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        "kv_cache_capacity_tokens": (
            Derived(
                "vllm:cache_config_info", kv_cache_tokens, "kv_cache_size_tokens, else num_gpu_blocks x block_size"
            ),
        ),
        "prefix_cache_queries_total": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
        "prefix_cache_hits_total": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        "prefix_cache_hit_ratio": ("vllm:gpu_prefix_cache_hit_rate",),
        "prompt_tokens_cached_total": ("vllm:prompt_tokens_cached_total", "vllm:prefix_cache_hits_total"),
        "preemptions_total": ("vllm:num_preemptions_total",),
        "requests_finished_total": ("vllm:request_success_total",),
        "request_errors_total": ("vllm:admission_rejections_total",),
        "http_responses_total": (Derived("http_requests_total", http_responses, "by class of status"),),
        "spec_decode_acceptance_ratio": ("vllm:spec_decode_draft_acceptance_rate",),
        "lora_slots": (Derived("vllm:lora_requests_info", lora_slots, "max_lora of the latest series"),),
        "lora_slots_used": (
            Derived("vllm:lora_requests_info", lora_slots_used, "names in running_lora_adapters of the latest series"),
        ),
        "model_context_tokens": (Supplied("max_model_len of /v1/models"),),
        "engine_sleep_state": ("vllm:engine_sleep_state",),
    },
    EngineKind.SGLANG: {
        "num_requests_running": ("sglang:num_running_reqs",),
        "num_requests_waiting": ("sglang:num_queue_reqs",),
        "input_tokens_total": ("sglang:prompt_tokens_total", "sglang:num_prompt_tokens_total"),
        "output_tokens_total": ("sglang:generation_tokens_total", "sglang:num_generation_tokens_total"),
        "generation_tokens_total": ("sglang:generation_tokens_total",),
        "time_to_first_token_seconds": ("sglang:time_to_first_token_seconds",),
        "inter_token_latency_seconds": ("sglang:inter_token_latency_seconds",),
        "time_per_output_token_seconds": (
            "sglang:request_time_per_output_token_seconds",
            "sglang:time_per_output_token_seconds",
        ),
        "e2e_request_latency_seconds": ("sglang:e2e_request_latency_seconds",),
        "request_queue_time_seconds": ("sglang:queue_time_seconds",),
        "request_prompt_tokens": ("sglang:prompt_tokens_histogram",),
        "request_output_tokens": ("sglang:generation_tokens_histogram",),
        "kv_cache_usage_ratio": ("sglang:token_usage",),
        "gpu_cache_usage_perc": ("sglang:token_usage",),
        "kv_cache_capacity_tokens": ("sglang:max_total_num_tokens",),
        "prefix_cache_hits_total": (
            Derived("sglang:cached_tokens_total", sum_over(b"cache_source"), "summed over cache_source"),
        ),
        "prefix_cache_hit_ratio": ("sglang:cache_hit_rate",),
        "prompt_tokens_cached_total": (
            Derived("sglang:cached_tokens_total", sum_over(b"cache_source"), "summed over cache_source"),
        ),
        # num_retracted_reqs is a gauge of the last batch; this counter came later.
        "preemptions_total": ("sglang:num_retracted_requests_total",),
        "requests_finished_total": ("sglang:num_requests_total",),
        "request_errors_total": ("sglang:num_aborted_requests_total",),
        "http_responses_total": (Derived("sglang:http_responses_total", http_responses, "by class of status"),),
        "spec_decode_acceptance_ratio": ("sglang:spec_accept_rate",),
        "lora_slots": ("sglang:lora_pool_slots_total",),
        "lora_slots_used": ("sglang:lora_pool_slots_used",),
        "model_context_tokens": ("sglang:context_len", Supplied("max_model_len of /v1/models")),
    },
}

_MATRIXINFER = (
    "generation_tokens_total",
    "num_requests_waiting",
    "time_to_first_token_seconds",
    "time_per_output_token_seconds",
    "e2e_request_latency_seconds",
)

VOCABULARIES: Mapping[str, tuple[str, ...]] = {
    "patio": tuple(family.name for family in STANDARD),
    "matrixinfer": _MATRIXINFER,
    "kthena": _MATRIXINFER,
}
"""Names under each prefix that `--metrics-prefix` can ask for."""


def renamed_from(engine: EngineKind, name: str) -> tuple[str, ...]:
    """Return the engine's own names of a standard family, the first present counts."""
    return tuple(source for source in SOURCES[engine].get(name, ()) if isinstance(source, str))

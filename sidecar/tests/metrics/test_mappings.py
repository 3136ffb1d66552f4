"""The vocabulary on real texts: every family that an engine has a source for, on recorded engines and on older ones.

The texts of `older_engines` are short, and their values made up. Names, labels, types, HELP and the order of lines are
what those versions print, taken from public places:

- vLLM 0.6: vllm/engine/metrics.py of that time, and the /metrics of a V0 engine in production-stack's and
  vllmComposer's tests. `gpu_prefix_cache_hit_rate` is -1 there while prefix caching is off.
- vLLM 0.8: the /metrics in github.com/vllm-project/production-stack/issues/318 (prefix cache counted in blocks).
- vLLM 0.10: the /metrics in github.com/vllm-project/production-stack/issues/617 (old names beside the new ones).
- SGLang 0.4.6: python/sglang/srt/metrics/collector.py of that time, docs.sglang.io/references/production_metrics.html.
- SGLang 0.5: the same file of 0.5.6, github.com/sgl-project/sglang/issues/13485.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from patio.metrics.derived import Sample
from patio.metrics.mappings import SOURCES, STANDARD, Supplied
from patio.metrics.rewrite import compile_rules, rewrite
from patio_protocol.engines import EngineKind

OLDER = Path(__file__).parents[1] / "older_engines"
CONTEXT = {"model_context_tokens": (Sample(((b"model_name", b"tiny"),), 512),)}


def added_samples(text: bytes, engine: EngineKind) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what is added: for each sample name, values by sorted label values, without our label."""
    page = rewrite(text, compile_rules(engine, ("patio",)), supplied=CONTEXT).text
    assert page.startswith(text)
    series_by_name: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(page.removeprefix(text).decode()):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("inference_engine") == engine.value
            key = tuple(f"{name}={value}" for name, value in sorted(labels.items()))
            series = series_by_name.setdefault(sample.name.removeprefix("patio:"), {})
            assert key not in series
            series[key] = sample.value
    return series_by_name


def families(series_by_name: dict[str, dict[tuple[str, ...], float]]) -> set[str]:
    names = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in series_by_name}
    return {name for name in names if not name.endswith("_created")}


def test_every_sourced_family_comes_out_of_recorded_vllm(recordings: Path) -> None:
    added = added_samples((recordings / "vllm/metrics-0.32.0.txt").read_bytes(), EngineKind.VLLM)
    # Recorded without speculative decoding; the other one has become two counters.
    assert set(SOURCES[EngineKind.VLLM]) - families(added) == {"prefix_cache_hit_ratio", "spec_decode_acceptance_ratio"}
    assert added["kv_cache_capacity_tokens"] == {("engine=0",): 2097152.0}
    assert added["lora_slots"] == {(): 2.0}
    assert added["lora_slots_used"] == {(): 2.0}
    assert added["model_context_tokens"] == {("model_name=tiny",): 512.0}
    assert added["http_responses_total"] == {("class=2xx",): 93.0, ("class=4xx",): 1.0, ("class=5xx",): 0.0}
    assert list(added["num_requests_waiting_by_reason"]) == [
        ("engine=0", "model_name=tiny", "reason=capacity"),
        ("engine=0", "model_name=tiny", "reason=deferred"),
    ]
    assert added["engine_sleep_state"]["engine=0", "model_name=tiny", "sleep_state=awake"] == 1


def test_every_sourced_family_comes_out_of_recorded_sglang(recordings: Path) -> None:
    added = added_samples((recordings / "sglang/metrics_busy.txt").read_bytes(), EngineKind.SGLANG)
    # No request was aborted and none was put back: SGLang has these counters from the first one on.
    assert set(SOURCES[EngineKind.SGLANG]) - families(added) == {"request_errors_total", "preemptions_total"}
    assert added["prefix_cache_hits_total"] == {("engine_type=unified", "model_name=tiny"): 13.0}
    assert added["prompt_tokens_cached_total"] == added["prefix_cache_hits_total"]
    # /generate, completions and chat completions, and /freeze_gc; /ready and /health answered 503 32 times.
    assert added["http_responses_total"] == {("class=2xx",): 22.0, ("class=4xx",): 7.0, ("class=5xx",): 0.0}
    (context,) = added["model_context_tokens"].values()
    assert context == 512.0
    assert next(iter(added["model_context_tokens"]))[0] == "engine_type=unified", "its own metric comes before asking"


def test_no_family_is_without_a_source() -> None:
    """Nothing in the vocabulary is a dead letter; a table for a new engine may have fewer."""
    assert {family.name for family in STANDARD} == {name for table in SOURCES.values() for name in table}


def test_vllm_0_6() -> None:
    added = added_samples((OLDER / "vllm-0.6.txt").read_bytes(), EngineKind.VLLM)
    model = ("model_name=qwen",)
    assert families(added) == set(SOURCES[EngineKind.VLLM]) - {
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "prefix_cache_queries_total",
        "prefix_cache_hits_total",
        "prompt_tokens_cached_total",
        "request_errors_total",
        "num_requests_waiting_by_reason",
        "http_responses_total",
        "engine_sleep_state",
    }
    assert added["kv_cache_usage_ratio"] == added["gpu_cache_usage_perc"] == {model: 0.25}
    assert added["kv_cache_capacity_tokens"] == {(): 11560.0 * 16}
    assert (added["lora_slots"], added["lora_slots_used"]) == ({(): 4.0}, {(): 0.0})
    assert added["prefix_cache_hit_ratio"] == {model: -1.0}, "what the engine says is not made prettier"
    assert (
        added["inter_token_latency_seconds_count"] == added["time_per_output_token_seconds_count"] == {model: 147223.0}
    )
    assert added["request_queue_time_seconds_sum"] == {model: 12.5}
    assert added["requests_finished_total"]["finished_reason=abort", "model_name=qwen"] == 28.0


def test_vllm_0_8_prefix_cache_counters_have_first_name() -> None:
    added = added_samples((OLDER / "vllm-0.8.txt").read_bytes(), EngineKind.VLLM)
    assert added["prefix_cache_queries_total"] == {("model_name=qwen",): 9713.0}
    assert added["prefix_cache_hits_total"] == {("model_name=qwen",): 4444.0}
    assert added["request_queue_time_seconds_created"] == {("model_name=qwen",): 1742624023.7545855}
    assert (added["lora_slots"], added["lora_slots_used"]) == ({(): 0.0}, {(): 0.0})


def test_vllm_0_10_new_names_win_over_old_ones() -> None:
    added = added_samples((OLDER / "vllm-0.10.txt").read_bytes(), EngineKind.VLLM)
    key = ("engine=0", "model_name=glm")
    assert added["prefix_cache_queries_total"] == {key: 32.0}
    assert added["prefix_cache_hits_total"] == {key: 16.0}
    assert added["kv_cache_usage_ratio"] == {key: 9.75010481363281e-06}
    assert added["prompt_tokens_cached_total"] == {key: 16.0}, "the tokens of its own cache, before it had the sum"
    assert added["kv_cache_capacity_tokens"] == {("engine=0",): 25642.0 * 16, ("engine=1",): 25640.0 * 16}
    assert added["inter_token_latency_seconds_count"] == added["time_per_output_token_seconds_count"] == {key: 9.0}


def test_sglang_0_4_6() -> None:
    added = added_samples((OLDER / "sglang-0.4.6.txt").read_bytes(), EngineKind.SGLANG)
    model = ("model_name=llama",)
    assert families(added) == {
        "num_requests_running",
        "num_requests_waiting",
        "input_tokens_total",
        "output_tokens_total",
        "generation_tokens_total",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "e2e_request_latency_seconds",
        "kv_cache_usage_ratio",
        "gpu_cache_usage_perc",
        "prefix_cache_hits_total",
        "prompt_tokens_cached_total",
        "prefix_cache_hit_ratio",
        "requests_finished_total",
        "model_context_tokens",
    }
    assert added["prefix_cache_hits_total"] == {model: 512.0}
    assert added["input_tokens_total"] == {model: 8128902.0}
    assert added["model_context_tokens"] == {("model_name=tiny",): 512.0}, "no metric tells, /v1/models does"


def test_sglang_0_5() -> None:
    added = added_samples((OLDER / "sglang-0.5.txt").read_bytes(), EngineKind.SGLANG)
    assert len(added["num_requests_running"]) == 2, "one series for each rank: a query sums them"
    assert list(added["kv_cache_capacity_tokens"].values()) == [1617210.0]
    assert list(added["preemptions_total"].values()) == [48.0], "the counter, not the gauge of the last batch"
    assert list(added["request_errors_total"].values()) == [3.0]
    assert added["prefix_cache_hits_total"] == {
        ("engine_type=unified", "model_name=qwen"): 3000013.0,
        ("engine_type=unified", "model_name=other"): 7.0,
    }
    assert list(added["request_queue_time_seconds_sum"].values()) == [0.5]


@pytest.mark.parametrize("file", sorted(OLDER.iterdir()), ids=lambda file: file.stem)
def test_older_engines_source_is_not_taken_for_another_engine(file: Path) -> None:
    other = EngineKind.SGLANG if file.stem.startswith("vllm") else EngineKind.VLLM
    assert families(added_samples(file.read_bytes(), other)) == {"model_context_tokens"}


def test_context_tokens_have_no_metric_before_them_on_vllm() -> None:
    assert all(isinstance(source, Supplied) for source in SOURCES[EngineKind.VLLM]["model_context_tokens"])

"""Families that are more than a rename: what their functions make of samples, and of samples that make no sense."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patio.metrics.derived import (
    Read,
    Sample,
    _response_cached,
    http_responses,
    kv_cache_tokens,
    lora_slots,
    lora_slots_used,
    quoted,
    read,
    sum_over,
    waiting_by_reason,
)


def config(**labels: object) -> Read:
    return ",".join(f'{name}="{value}"' for name, value in labels.items()).encode(), 1.0


def lora(value: float, running: str, max_lora: object = 2, **others: str) -> Read:
    return config(**others, max_lora=max_lora, running_lora_adapters=running)[0], value


@pytest.mark.parametrize(
    ("labels", "tokens"),
    [
        ({"kv_cache_size_tokens": 2097152, "num_gpu_blocks": 1, "block_size": 1}, 2097152),
        ({"kv_cache_size_tokens": "None", "num_gpu_blocks": 10, "block_size": 16}, 160),
        ({"num_gpu_blocks": 10, "block_size": 16}, 160),
        ({"num_gpu_blocks": "None", "block_size": 16}, None),
        ({"num_gpu_blocks": 10}, None),
        ({"num_gpu_blocks": -10, "block_size": 16}, None),
        ({"num_gpu_blocks": "1" * 30, "block_size": 16}, None),
        ({}, None),
    ],
)
def test_capacity_is_what_the_configuration_says(labels: dict[str, object], tokens: int | None) -> None:
    assert [sample.value for sample in kv_cache_tokens([config(**labels)])] == ([] if tokens is None else [tokens])


def test_capacity_keeps_whose_it_is_and_no_configuration() -> None:
    derived = kv_cache_tokens(
        [
            config(block_size=16, engine="0", num_gpu_blocks="None"),
            config(block_size=16, engine="0", num_gpu_blocks="5", model_name="m"),
            config(block_size=16, engine="1", num_gpu_blocks="6", model_name="m"),
            config(num_gpu_blocks="7", block_size=16, model_name="m", engine="1"),
        ]
    )
    assert [(dict(labels), value) for labels, value in derived] == [
        ({b"engine": b"0", b"model_name": b"m"}, 80),
        ({b"engine": b"1", b"model_name": b"m"}, 112),
    ]


def test_only_the_latest_series_of_adapters_is_true() -> None:
    series = [lora(2, "a,b"), lora(9, ""), lora(5, "a"), lora(math.nan, "a,b,c")]
    assert list(lora_slots(series)) == [Sample((), 2)]
    assert list(lora_slots_used(series)) == [Sample((), 0)]
    assert list(lora_slots_used(series[:1])) == [Sample((), 2)]


@pytest.mark.parametrize(("running", "used"), [("", 0), ("a", 1), ("a,b", 2), ("a, b", 1), ("a, b,c", 2)])
def test_comma_in_an_adapters_name_is_none_between_two(running: str, used: int) -> None:
    assert list(lora_slots_used([lora(1.0, running)])) == [Sample((), used)]


def test_each_engine_has_a_latest_series_of_its_own() -> None:
    series = [lora(1, "a", engine="0"), lora(8, "", engine="1"), lora(2, "a,b", engine="0")]
    assert dict(lora_slots_used(series)) == {
        ((b"engine", b"0"),): 2,
        ((b"engine", b"1"),): 0,
    }


def test_adapters_without_the_labels_to_count_give_nothing() -> None:
    assert list(lora_slots([lora(1, "a", max_lora="many")])) == []
    assert list(lora_slots_used([config(max_lora=2)])) == []
    assert list(lora_slots([])) == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 10**6))))
def test_sum_is_over_its_label_alone(values: list[tuple[str, str, int]]) -> None:
    derived = sum_over(b"cache_source")([(config(model=m, cache_source=c)[0], v) for c, m, v in values])
    expected = {m: sum(v for _, model, v in values if model == m) for _, m, _ in values}
    assert {labels[0][1].decode(): value for labels, value in derived} == expected


def test_labels_in_another_order_are_the_same_series() -> None:
    derived = sum_over(b"s")([(b'a="1",b="2",s="x"', 1), (b'b="2",s="y",a="1"', 2)])
    assert list(derived) == [Sample(((b"a", b"1"), (b"b", b"2")), 3)]


@pytest.mark.parametrize("rest", [b" x", b" 1_000", b" 0x1p3", b" --1"])
def test_value_that_is_no_number_is_left_alone(rest: bytes) -> None:
    assert read(b"", rest) is None


@given(st.text(st.characters(codec="utf-8")))
def test_quoting_makes_a_value_that_ends_where_it_should(value: str) -> None:
    derived = sum_over(b"none")([(b'a="' + quoted(value) + b'",b="2"', 1)])
    ((labels, _),) = derived
    assert [name for name, _ in labels] == [b"a", b"b"]


def response(path: str, status: str, value: float = 1.0, **others: str) -> Read:
    return config(endpoint=path, method="POST", status_code=status, **others)[0], value


def by_class(samples: list[Read]) -> dict[str, float]:
    return {dict(labels)[b"class"].decode(): value for labels, value in http_responses(samples)}


@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("200", {"2xx": 1.0}),
        ("5xx", {"5xx": 1.0}),
        ("499", {"4xx": 1.0}),
        ("302", {"3xx": 1.0}),
        ("", {}),
        ("600", {}),
        ("2000", {}),
        ("2xx\\n", {}),
    ],
)
def test_responses_are_counted_by_class_of_status(status: str, found: dict[str, float]) -> None:
    assert by_class([response("/v1/completions", status)]) == {"2xx": 0.0, "4xx": 0.0, "5xx": 0.0, **found}


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/{model:path}", "/load_lora_adapter", "/v1/loads"],
)
def test_responses_to_machines_are_not_counted(path: str) -> None:
    assert by_class([response(path, "503"), response("/generate", "200", 2.0)]) == {"2xx": 2.0, "4xx": 0.0, "5xx": 0.0}


def test_responses_of_vllm_have_other_labels_and_mean_the_same() -> None:
    grouped = config(handler="/v1/completions", method="POST", status="2xx")[0], 3.0
    assert by_class([grouped, response("/v1/completions", "200", 2.0)])["2xx"] == 5.0


def test_other_labels_of_responses_stay() -> None:
    made = list(
        http_responses([response("/a", "200", rank="0"), response("/b", "404", rank="1"), response("/b", "201")])
    )
    assert len({labels for labels, _ in made}) == len(made) == 9
    assert ((b"rank", b"1"), (b"class", b"4xx")) in {labels for labels, _ in made}


def test_labels_that_are_very_long_are_not_remembered() -> None:
    _response_cached.cache_clear()
    long = "/" + "a" * 5000
    assert by_class([response(long, "200")])["2xx"] == 1.0
    assert _response_cached.cache_info().currsize == 0
    by_class([response(f"/{number}", "200") for number in range(3000)])
    assert _response_cached.cache_info().currsize <= 512


def test_unknown_reasons_of_waiting_are_one() -> None:
    samples = [
        (config(model_name="m", reason=reason)[0], 1.0) for reason in ("capacity", "deferred", "x", "y", "other")
    ]
    assert {dict(labels)[b"reason"]: value for labels, value in waiting_by_reason(samples)} == {
        b"capacity": 1.0,
        b"deferred": 1.0,
        b"other": 3.0,
    }

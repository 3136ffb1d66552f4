"""The rules for expressions find what they are for."""

from __future__ import annotations

import promql_lint
import pytest


@pytest.mark.parametrize(
    ("rule", "wrong", "right"),
    [
        (
            promql_lint.unknown_names,
            "sum(patio:num_request_running)",
            "sum by (model_name) (patio:num_requests_running)",
        ),
        (promql_lint.unknown_names, "vllm:num_requests_running", 'ALERTS{alertname=~"Patio.*"}'),
        (promql_lint.rates_of_gauges, "rate(patio:num_requests_running[5m])", "rate(patio:output_tokens_total[5m])"),
        (
            promql_lint.rates_of_gauges,
            "increase(patio:engine_up{pod='p'}[5m])",
            'rate(patio:time_to_first_token_seconds_bucket{le="1"}[5m])',
        ),
        (
            promql_lint.counters_without_rate,
            "sum(patio:output_tokens_total)",
            'sum(rate(patio:output_tokens_total{pod="a"}[5m]))',
        ),
        (
            promql_lint.counters_without_rate,
            "patio:time_to_first_token_seconds_sum",
            "increase(patio:time_to_first_token_seconds_sum[5m])",
        ),
        (
            promql_lint.mixed_quantiles,
            "histogram_quantile(0.9, sum by (le) (rate(patio:time_to_first_token_seconds_bucket[5m])))",
            "histogram_quantile(0.9, sum by (inference_engine, le) "
            "(rate(patio:time_to_first_token_seconds_bucket[5m])))",
        ),
        (
            promql_lint.mixed_quantiles,
            "histogram_quantile(0.9, sum by (operation) (rate(patio:lora_operation_duration_seconds_bucket[5m])))",
            "histogram_quantile(0.9, sum by (operation, le) (rate(patio:lora_operation_duration_seconds_bucket[5m])))",
        ),
        (
            promql_lint.mixed_quantiles,
            "histogram_quantile(0.9, rate(patio:time_to_first_token_seconds_bucket[5m]))",
            "patio:engine_up",
        ),
        (promql_lint.unguarded_divisions, "a / b", "a / (b > 0)"),
        (promql_lint.unguarded_divisions, "a / (sum(b))", "a / (sum by (x) (b) > 0) / 2"),
        (promql_lint.unguarded_divisions, "a / (sum(b) > 0) / c", 'a{path="/v1/models"} + 1'),
    ],
)
def test_rule_finds_the_wrong_one_and_leaves_the_right_one(rule: object, wrong: str, right: str) -> None:
    assert callable(rule)
    assert list(rule(wrong)) != []
    assert list(rule(right)) == []

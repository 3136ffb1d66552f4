"""Builds PromQL for panels: selectors with the variables of the dashboards, rates, quantiles and guarded divisions.

Panels are written with these functions rather than as text, so that every panel filters by the same variables, every
quantile is grouped by the engine, and no division can give NaN. Expressions of alerts are text: people read those.
"""

from __future__ import annotations

OWN = (
    'cluster=~"$cluster", namespace=~"$namespace", rbg_workloads_x_k8s_io_group_name=~"$group", '
    'rbg_workloads_x_k8s_io_role_name=~"$role", pod=~"$pod"'
)
"""Labels that Prometheus gives to every series of a pod with a sidecar."""
ENGINE = f'{OWN}, model_name=~"$model_name", inference_engine=~"$inference_engine"'
"""Labels of the series that come from an engine."""
OPERATOR = 'cluster=~"$cluster", namespace=~"$operator"'
CONTAINERS = 'cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod", container!="", container!="POD"'
"""Labels of what cAdvisor and kube-state-metrics say of containers."""

POD = ("cluster", "namespace", "pod")
MODEL = ("cluster", "namespace", "model_name", "inference_engine")
WINDOW = "$__rate_interval"


def engine(name: str, *matchers: str) -> str:
    """Return the series of a standard family that the chosen engines have."""
    return _series(f"patio:{name}", ENGINE, matchers)


def own(name: str, *matchers: str) -> str:
    """Return the series of a family that sidecars measure themselves. They have no model: a filter by it finds none."""
    return _series(f"patio:{name}", OWN, matchers)


def of_model(name: str) -> str:
    """Return the series of a standard family that has no model on vLLM, of the pods that serve the chosen models."""
    return f"({own(name)} and on (cluster, namespace, pod) {engine('num_requests_running')})"


def with_model(series: str) -> str:
    """Return series without a model, of the pods that serve the chosen models, with the model's name. Also while the
    engine is down: the sidecar remembers the name.
    """
    return f"{series} * on (cluster, namespace, pod) group_left (model_name) {models('model_name')}"


def models(*labels: str) -> str:
    """Return one series for each pod with labels of its model, also where a pod is scraped twice."""
    return fullest(engine("engine_info"), *POD, *labels)


def operator(name: str, *matchers: str) -> str:
    """Return the series of one of the operator's families."""
    return _series(f"patio_operator_{name}", OPERATOR, matchers)


def of_operator(expression: str) -> str:
    """Return the series of the processes among some that are operators: other programs have the same names."""
    return f"{expression} and on (cluster, namespace, pod) {operator('leader')}"


def process(name: str) -> str:
    """Return the series of one of the families that every process can have, from the operator's namespace."""
    return _series(f"process_{name}", OPERATOR, ())


def external(name: str, *matchers: str) -> str:
    """Return the series of a container metric that Patio does not make."""
    return _series(name, CONTAINERS, matchers)


def rate(series: str, window: str = WINDOW) -> str:
    """Return the rate per second of a counter."""
    return f"rate({series}[{window}])"


def increase(series: str, window: str = "$__range") -> str:
    """Return how much a counter grew, by default in the time that the dashboard shows."""
    return f"increase({series}[{window}])"


def grouped(aggregation: str, expression: str, *labels: str) -> str:
    """Return an aggregation, by labels if there are any."""
    return f"{aggregation} by ({', '.join(labels)}) ({expression})" if labels else f"{aggregation}({expression})"


def total(expression: str, *labels: str) -> str:
    """Return the sum, by labels if there are any."""
    return grouped("sum", expression, *labels)


def fullest(expression: str, *labels: str) -> str:
    """Return the maximum, by labels if there are any."""
    return grouped("max", expression, *labels)


def count(expression: str, *labels: str) -> str:
    """Return the number of series, by labels if there are any."""
    return grouped("count", expression, *labels)


def above_zero(expression: str) -> str:
    """Return the series that are not 0: counters with a series for each reason would fill a legend from the start."""
    return f"{expression} > 0"


def or_zero(expression: str) -> str:
    """Return the expression, or 0 where it has no series. For counts only: of a rate, nothing is not zero."""
    return f"{expression} or vector(0)"


def ratio(part: str, whole: str) -> str:
    """Return a quotient that has no series, rather than NaN, where the divisor is 0."""
    return f"{part} / ({whole} > 0)"


def quantile(which: float, histogram: str, *labels: str) -> str:
    """Return a quantile of a histogram of engines. Their buckets differ, so it is never taken over both engines."""
    return own_quantile(which, histogram, *dict.fromkeys((*labels, "inference_engine")))


def own_quantile(which: float, histogram: str, *labels: str, window: str = WINDOW) -> str:
    """Return a quantile of a histogram of sidecars or of the operator, which have the same buckets everywhere.

    Without observations it has no series: the comparison drops the NaN that it would be.
    """
    name, brace, selector = histogram.partition("{")
    grown = total(rate(f"{name}_bucket{brace}{selector}", window), *labels, "le")
    return f"histogram_quantile({which}, {grown}) >= 0"


def mean(histogram: str, *labels: str) -> str:
    """Return the mean of a histogram's observations."""
    name, brace, selector = histogram.partition("{")
    return ratio(
        total(rate(f"{name}_sum{brace}{selector}"), *labels), total(rate(f"{name}_count{brace}{selector}"), *labels)
    )


def within(histogram: str, bound: str, *labels: str) -> str:
    """Return the share of observations up to a bucket's bound, which must be one that both engines have.

    Prometheus 2 keeps the text of `le` as the program wrote it, and Prometheus 3 writes 10 as 10.0: both match.
    """
    name, brace, selector = histogram.partition("{")
    inside = f'{name}_bucket{brace}{selector[:-1]}, le=~"{bound}(\\\\.0)?"}}'
    return ratio(total(rate(inside), *labels), total(rate(f"{name}_count{brace}{selector}"), *labels))


def failed_requests(*labels: str) -> str:
    """Return failed requests a second: rejected and aborted ones, and those that ended by an error.

    An engine without one of the two counters still has the other.
    """
    finished = total(rate(engine("requests_finished_total")), *labels)
    errors = total(rate(engine("request_errors_total")), *labels)
    ended = total(rate(engine("requests_finished_total", 'finished_reason="error"')), *labels)
    return f"(({errors} or 0 * {finished}) + ({ended} or 0 * {finished}))"


def _series(name: str, selector: str, matchers: tuple[str, ...]) -> str:
    return f"{name}{{{', '.join((selector, *matchers))}}}"

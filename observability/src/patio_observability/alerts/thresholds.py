"""The thresholds of all alerts, with their defaults."""

from __future__ import annotations

from patio_observability.alerts.model import Threshold
from patio_observability.dashboards.parts import TPOT_BOUNDS, TTFT_BOUNDS

THRESHOLDS = (
    Threshold("queueSeconds", 30, "Mean seconds in the queue."),
    Threshold("queueLength", 10, "Requests in the queue of a model, if there are also more than run."),
    Threshold("kvCacheUsage", 0.95, "Used share of a KV cache, while requests wait."),
    Threshold("preemptionsPerRequest", 0.1, "Preemptions for each finished request."),
    Threshold(
        "timeToFirstTokenSeconds",
        10,
        "Seconds to the first token. It must be a bound of a bucket that both engines have.",
        tuple(map(float, TTFT_BOUNDS)),
    ),
    Threshold("timeToFirstTokenMissed", 0.05, "Share of requests whose first token takes longer."),
    Threshold(
        "timePerOutputTokenSeconds",
        0.2,
        "Mean seconds for each token of a request. It must be a bound of a bucket that both engines have.",
        tuple(map(float, TPOT_BOUNDS)),
    ),
    Threshold("timePerOutputTokenMissed", 0.05, "Share of requests whose tokens take longer."),
    Threshold("failedRequests", 0.05, "Share of requests that fail."),
    Threshold("minimumRequestRate", 0.01, "Requests a second of a model, below which shares of requests say nothing."),
    Threshold("scrapeErrors", 3, "Failed scrapes of an engine in 15 minutes."),
    Threshold("loadsPerAdapter", 3, "Loads in 30 minutes for each adapter of a pod."),
    Threshold("downloadFailures", 5, "Failed attempts at downloads in 30 minutes."),
    Threshold("downloadRoom", 0.1, "Share of the limit of downloads that is still to be had."),
    Threshold("serverErrors", 0.01, "Share of HTTP responses with a status of 500 or more."),
    Threshold("rejectedCalls", 3, "Rejected calls to a sidecar in 15 minutes."),
    Threshold("rejectedAdmissions", 5, "Pods that the webhook rejects in 15 minutes."),
    Threshold("admissionSeconds", 1, "Seconds of an admission, p99."),
    Threshold("failedPasses", 0.2, "Share of passes of a reconciler that fail."),
    Threshold("dueSeconds", 600, "Seconds for which an object is due and has no successful pass of its reconciler."),
    Threshold("unreachableSidecars", 0.1, "Share of sidecars that do not answer the operator."),
    Threshold("certificateDays", 14, "Days until the webhook's certificate or its CA ends."),
)
DEFAULTS = {threshold.name: threshold.default for threshold in THRESHOLDS}

"""Series on which each alert fires, and series on which it must stay silent.

Values are in promtool's notation, one a minute: `1x10` is 1 eleven times, `0+60x30` grows by 60 a minute, `_` is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

Labels = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """One situation, looked at one moment."""

    name: str
    at: str
    series: Mapping[str, str]
    fires: tuple[Labels, ...] = ()
    """Labels of the alerts that fire, without the severity; none: it is silent."""


IN_POD = {"namespace": "a", "pod": "p"}
OF_MODEL = {"namespace": "a", "model_name": "m"}
OF_POD = {"namespace": "a", "pod": "p", "model_name": "m"}
IN_OPERATOR = {"namespace": "patio-system"}
OF_OBJECT = {**IN_OPERATOR, "object_namespace": "a", "object_name": "x"}


def _series(name: str, labels: Labels) -> str:
    return f"{name}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in labels.items())}}}"


def _pod(name: str, **labels: str) -> str:
    return _series(f"patio:{name}", {"namespace": "a", "pod": "p", **labels})


def _model(name: str, **labels: str) -> str:
    return _pod(name, **{"model_name": "m", "inference_engine": "vllm", **labels})


def _operator(name: str, **labels: str) -> str:
    return _series(f"patio_operator_{name}", {"namespace": "patio-system", "pod": "o1", **labels})


def _object(name: str, **labels: str) -> str:
    return _operator(name, object_namespace="a", object_name="x", **labels)


def _state(state: str, pod: str = "p", adapter: str = "x") -> str:
    return _pod("lora_adapter_state", pod=pod, adapter=adapter, state=state)


def _finished(reason: str) -> str:
    return _model("requests_finished_total", finished_reason=reason)


def _slo(family: str, bound: str, inside: str, total: str) -> dict[str, str]:
    return {
        _model(f"{family}_bucket", le=bound): inside,
        _model(f"{family}_bucket", le="+Inf"): total,
        _model(f"{family}_count"): total,
    }


def _stalled(running: str, waiting: str, inputs: str, outputs: str) -> dict[str, str]:
    return {
        _model("num_requests_running"): running,
        _model("num_requests_waiting"): waiting,
        _model("input_tokens_total"): inputs,
        _model("output_tokens_total"): outputs,
    }


def _sleep(awake: str, offloaded: str) -> dict[str, str]:
    return {
        _model("engine_sleep_state", sleep_state="awake"): awake,
        _model("engine_sleep_state", sleep_state="weights_offloaded"): offloaded,
        _model("engine_sleep_state", sleep_state="discard_all"): "0x30",
    }


def _responses(failed: str, answered: str, rejected: str = "0x30") -> dict[str, str]:
    classes = {"5xx": failed, "2xx": answered, "4xx": rejected}
    found = {
        _pod("http_responses_total", inference_engine="vllm", **{"class": status_class}): each
        for status_class, each in classes.items()
    }
    return found | {_model("engine_info"): "1x30"}


def _disk(**sizes: int) -> dict[str, str]:
    return {_pod("download_disk_bytes", kind=kind): f"{size}x30" for kind, size in sizes.items()}


CASES: Mapping[str, tuple[Case, ...]] = {
    "PatioEngineDown": (
        Case("it was up", "17m", {_pod("engine_up"): "1x10 0x20"}, (IN_POD,)),
        Case("not yet for long", "14m", {_pod("engine_up"): "1x10 0x20"}),
        Case("it starts", "30m", {_pod("engine_up"): "0x40"}),
        Case("it is up", "30m", {_pod("engine_up"): "1x40"}),
        Case("the pod is gone", "30m", {_pod("engine_up"): "1x10 _x30"}),
    ),
    "PatioEngineNotStarted": (
        Case("never up", "46m", {_pod("engine_up"): "0x60"}, (IN_POD,)),
        Case("it starts", "44m", {_pod("engine_up"): "0x60"}),
        Case("it came up", "60m", {_pod("engine_up"): "0x40 1x30"}),
    ),
    "PatioModelGone": (
        Case("all pods gone", "22m", {_model("num_requests_running"): "0x10 _x40"}, (OF_MODEL,)),
        Case("it ends by itself", "40m", {_model("num_requests_running"): "0x10 _x40"}),
        Case(
            "another pod serves it",
            "22m",
            {
                _model("num_requests_running"): "0x10 _x40",
                _model("num_requests_running", pod="q"): "0x50",
            },
        ),
    ),
    "PatioEngineStalled": (
        Case("no token moves", "15m", _stalled("3x30", "2x30", "100x30", "100x30"), (OF_POD,)),
        Case("only a queue", "15m", _stalled("0x30", "2x30", "100x30", "100x30"), (OF_POD,)),
        Case("it works", "15m", _stalled("3x30", "2x30", "100x30", "0+10x30")),
        Case("a prefill worker", "15m", _stalled("3x30", "0x30", "0+10x30", "0x30")),
        Case(
            "a prefill worker without a counter of output tokens",
            "15m",
            {
                _model("num_requests_running"): "3x30",
                _model("num_requests_waiting"): "0x30",
                _model("input_tokens_total"): "0+10x30",
            },
        ),
        Case("it is idle", "15m", _stalled("0x30", "0x30", "100x30", "100x30")),
        Case("it is asleep", "15m", {**_stalled("0x30", "2x30", "100x30", "100x30"), **_sleep("0x30", "1x30")}),
        Case("it is awake", "15m", {**_stalled("0x30", "2x30", "9x30", "9x30"), **_sleep("1x30", "0x30")}, (OF_POD,)),
    ),
    "PatioServerErrors": (
        Case("2 in 100", "20m", _responses("0+2x30", "0+98x30"), (OF_MODEL,)),
        Case("2 in 1000", "20m", _responses("0+2x30", "0+998x30")),
        Case(
            "a pod that is scraped twice",
            "20m",
            {**_responses("0+2x30", "0+98x30"), _model("engine_info", job="another"): "1x30"},
            (OF_MODEL,),
        ),
        Case("no traffic", "20m", _responses("2x30", "98x30")),
        Case("clients' errors only", "20m", _responses("0x30", "0+50x30", "0+50x30")),
        Case("a single request that fails", "20m", _responses("0x10 1x20", "0x30")),
    ),
    "PatioDrainCut": (
        Case(
            "requests were left, and the pod is gone",
            "12m",
            {_pod("drains_total", outcome="requests"): "0x10 1 _x20", _pod("drains_total", outcome="drained"): "0x30"},
            (IN_POD,),
        ),
        Case(
            "all requests ended",
            "12m",
            {_pod("drains_total", outcome="requests"): "0x30", _pod("drains_total", outcome="drained"): "0x10 1x20"},
        ),
        Case("only a router kept it", "12m", {_pod("drains_total", outcome="router"): "0x10 1x20"}),
    ),
    "PatioDiskAlmostFull": (
        Case("adapters hold it", "20m", _disk(used=95, held=95, free=500, limit=100), (IN_POD,)),
        Case("others fill it", "20m", _disk(used=20, held=18, free=3, limit=100), (IN_POD,)),
        Case("files that can be removed", "20m", _disk(used=99, held=20, free=500, limit=100)),
        Case("room on both", "20m", _disk(used=50, held=50, free=50, limit=100)),
        Case("nothing was downloaded", "20m", {_pod("engine_up"): "1x30"}),
    ),
    "PatioQueueTimeHigh": (
        Case(
            "40 seconds",
            "25m",
            {
                _model("request_queue_time_seconds_sum"): "0+2400x40",
                _model("request_queue_time_seconds_count"): "0+60x40",
            },
            (OF_MODEL,),
        ),
        Case(
            "10 seconds",
            "25m",
            {
                _model("request_queue_time_seconds_sum"): "0+600x40",
                _model("request_queue_time_seconds_count"): "0+60x40",
            },
        ),
        Case(
            "no traffic",
            "25m",
            {
                _model("request_queue_time_seconds_sum"): "2400x40",
                _model("request_queue_time_seconds_count"): "60x40",
            },
        ),
    ),
    "PatioQueueLongerThanBatch": (
        Case(
            "20 wait, 8 run",
            "20m",
            {_model("num_requests_waiting"): "20x30", _model("num_requests_running"): "8x30"},
            (OF_MODEL,),
        ),
        Case(
            "20 wait, 30 run",
            "20m",
            {_model("num_requests_waiting"): "20x30", _model("num_requests_running"): "30x30"},
        ),
        Case(
            "5 wait, 1 runs",
            "20m",
            {_model("num_requests_waiting"): "5x30", _model("num_requests_running"): "1x30"},
        ),
    ),
    "PatioKVCacheExhausted": (
        Case(
            "full with a queue",
            "25m",
            {_model("kv_cache_usage_ratio"): "0.99x40", _model("num_requests_waiting"): "4x40"},
            (OF_POD,),
        ),
        Case(
            "full without a queue",
            "25m",
            {_model("kv_cache_usage_ratio"): "0.99x40", _model("num_requests_waiting"): "0x40"},
        ),
        Case(
            "half full",
            "25m",
            {_model("kv_cache_usage_ratio"): "0.5x40", _model("num_requests_waiting"): "4x40"},
        ),
    ),
    "PatioPreemptionsHigh": (
        Case(
            "one for two requests",
            "30m",
            {_model("preemptions_total"): "0+30x40", _finished("stop"): "0+60x40"},
            (OF_POD,),
        ),
        Case("one for sixty", "30m", {_model("preemptions_total"): "0+1x40", _finished("stop"): "0+60x40"}),
    ),
    "PatioTimeToFirstTokenSLO": (
        Case("one in six is late", "45m", _slo("time_to_first_token_seconds", "10", "0+50x60", "0+60x60"), (OF_MODEL,)),
        Case(
            "as Prometheus 3 writes the bound",
            "45m",
            _slo("time_to_first_token_seconds", "10.0", "0+50x60", "0+60x60"),
            (OF_MODEL,),
        ),
        Case("one in sixty", "45m", _slo("time_to_first_token_seconds", "10", "0+59x60", "0+60x60")),
        Case("hardly any request", "45m", _slo("time_to_first_token_seconds", "10", "0+0.05x60", "0+0.1x60")),
        Case("no traffic", "45m", _slo("time_to_first_token_seconds", "10", "50x60", "60x60")),
    ),
    "PatioTimePerOutputTokenSLO": (
        Case(
            "one in six is slow", "45m", _slo("time_per_output_token_seconds", "0.2", "0+50x60", "0+60x60"), (OF_MODEL,)
        ),
        Case("one in sixty", "45m", _slo("time_per_output_token_seconds", "0.2", "0+59x60", "0+60x60")),
        Case("hardly any request", "45m", _slo("time_per_output_token_seconds", "0.2", "0+0.05x60", "0+0.1x60")),
    ),
    "PatioRequestsFail": (
        Case("errors on vLLM", "20m", {_finished("stop"): "0+60x30", _finished("error"): "0+20x30"}, (OF_MODEL,)),
        Case(
            "rejections on vLLM",
            "20m",
            {
                _finished("stop"): "0+60x30",
                _model("request_errors_total", reason="max_num_queued_reqs"): "0+20x30",
            },
            (OF_MODEL,),
        ),
        Case(
            "aborts on SGLang, which gives no reason",
            "20m",
            {
                _model("requests_finished_total"): "0+60x30",
                _model("request_errors_total"): "0+10x30",
            },
            (OF_MODEL,),
        ),
        Case("one in sixty", "20m", {_finished("stop"): "0+60x30", _finished("error"): "0+1x30"}),
        Case("one of one", "20m", {_finished("error"): "0+0.1x30"}),
    ),
    "PatioScrapesFail": (
        Case(
            "timeouts",
            "35m",
            {_pod("engine_scrape_errors_total", reason="timeout"): "0+1x50"},
            ({**IN_POD, "reason": "timeout"},),
        ),
        Case("it starts", "35m", {_pod("engine_scrape_errors_total", reason="connection"): "0+1x50"}),
        Case("long ago", "50m", {_pod("engine_scrape_errors_total", reason="timeout"): "0+1x20 20x40"}),
    ),
    "PatioAdapterNowhere": (
        Case("pending", "20m", {_state("Pending"): "1x40"}, ({"namespace": "a", "adapter": "x"},)),
        Case("loaded on one of two", "20m", {_state("Pending"): "1x40", _state("Loaded", "q"): "1x40"}),
        Case("on its way out", "20m", {_state("Unloading"): "1x40"}),
        Case("just new", "10m", {_state("Downloading"): "1x40"}),
    ),
    "PatioAdapterFailed": (
        Case("rejected", "20m", {_state("Failed"): "1x40"}, ({"namespace": "a", "adapter": "x"},)),
        Case("loaded", "20m", {_state("Loaded"): "1x40"}),
        Case("another adapter", "20m", {_state("Failed"): "1x5 _x40", _state("Loaded"): "_x5 1x40"}),
    ),
    "PatioAdapterStuck": (
        Case(
            "downloads for long",
            "35m",
            {_state("Downloading"): "1x40"},
            ({"namespace": "a", "adapter": "x", "state": "Downloading"},),
        ),
        Case("not yet for long", "25m", {_state("Downloading"): "1x40"}),
        Case("it moves on", "45m", {_state("Downloading"): "1x20 _x40", _state("Loading"): "_x20 1x20 _x20"}),
        Case("loaded", "45m", {_state("Loaded"): "1x60"}),
    ),
    "PatioAdaptersThrash": (
        Case(
            "30 loads of two adapters",
            "55m",
            {
                _pod("lora_operations_total", operation="load", outcome="ok"): "0+1x70",
                _state("Loaded"): "1x70",
                _state("Pending", adapter="y"): "1x70",
            },
            (IN_POD,),
        ),
        Case(
            "three loads of two adapters",
            "55m",
            {
                _pod("lora_operations_total", operation="load", outcome="ok"): "0+0.1x70",
                _state("Loaded"): "1x70",
                _state("Pending", adapter="y"): "1x70",
            },
        ),
    ),
    "PatioDownloadsFail": (
        Case(
            "one a minute",
            "45m",
            {_pod("download_failures_total", source="s3", reason="Timeout"): "0+1x70"},
            ({"namespace": "a", "source": "s3", "reason": "Timeout"},),
        ),
        Case(
            "now and then",
            "45m",
            {_pod("download_failures_total", source="s3", reason="Timeout"): "0+0.1x70"},
        ),
    ),
    "PatioNotRegistered": (
        Case(
            "up and not listed",
            "7m",
            {
                _pod("topology_registered", router="http://r"): "0x20",
                _pod("engine_up"): "1x20",
            },
            ({**IN_POD, "router": "http://r"},),
        ),
        Case(
            "drained",
            "7m",
            {
                _pod("topology_registered", router="http://r"): "0x20",
                _pod("engine_up"): "1x20",
                _pod("draining"): "1x20",
            },
        ),
        Case(
            "not up either",
            "7m",
            {
                _pod("topology_registered", router="http://r"): "0x20",
                _pod("engine_up"): "0x20",
            },
        ),
        Case(
            "listed",
            "7m",
            {
                _pod("topology_registered", router="http://r"): "1x20",
                _pod("engine_up"): "1x20",
            },
        ),
    ),
    "PatioCallsRejected": (
        Case(
            "one a minute",
            "25m",
            {_pod("access_denials_total", code="UnknownKey"): "0+1x40"},
            ({**IN_POD, "code": "UnknownKey"},),
        ),
        Case("long ago", "35m", {_pod("access_denials_total", code="UnknownKey"): "9x40"}),
    ),
    "PatioOperatorAbsent": (
        Case("never there", "7m", {}, ({},)),
        Case("gone", "25m", {_operator("leader"): "1x10 _x40"}, ({},)),
        Case("a standby only", "25m", {_operator("leader"): "0x40"}),
    ),
    "PatioOperatorLeaders": (
        Case(
            "none leads",
            "5m",
            {_operator("leader"): "0x20", _operator("leader", pod="o2"): "0x20"},
            (IN_OPERATOR,),
        ),
        Case(
            "two lead",
            "5m",
            {_operator("leader"): "1x20", _operator("leader", pod="o2"): "1x20"},
            (IN_OPERATOR,),
        ),
        Case(
            "one leads",
            "5m",
            {_operator("leader"): "1x20", _operator("leader", pod="o2"): "0x20"},
        ),
        Case(
            "another one takes over",
            "12m",
            {_operator("leader"): "1x9 0x20", _operator("leader", pod="o2"): "0x10 1x20"},
        ),
    ),
    "PatioAdmissionsFail": (
        Case(
            "errors",
            "12m",
            {_operator("admissions_total", webhook="pods", outcome="error"): "0+1x20"},
            (IN_OPERATOR,),
        ),
        Case("allowed", "12m", {_operator("admissions_total", webhook="pods", outcome="allowed"): "0+9x20"}),
        Case("one error", "12m", {_operator("admissions_total", webhook="pods", outcome="error"): "0x3 1x20"}),
    ),
    "PatioAdmissionsRejected": (
        Case(
            "one a minute",
            "35m",
            {_operator("admissions_total", webhook="pods", outcome="rejected"): "0+1x50"},
            (IN_OPERATOR,),
        ),
        Case("now and then", "35m", {_operator("admissions_total", webhook="pods", outcome="rejected"): "0+0.1x50"}),
        Case("allowed", "35m", {_operator("admissions_total", webhook="pods", outcome="allowed"): "0+9x50"}),
    ),
    "PatioAdmissionsSlow": (
        Case(
            "most over a second",
            "25m",
            {
                _operator("admission_duration_seconds_bucket", webhook="pods", le="1"): "0+10x40",
                _operator("admission_duration_seconds_bucket", webhook="pods", le="5"): "0+60x40",
                _operator("admission_duration_seconds_bucket", webhook="pods", le="+Inf"): "0+60x40",
            },
            (IN_OPERATOR,),
        ),
        Case(
            "all in time",
            "25m",
            {
                _operator("admission_duration_seconds_bucket", webhook="pods", le="0.01"): "0+60x40",
                _operator("admission_duration_seconds_bucket", webhook="pods", le="+Inf"): "0+60x40",
            },
        ),
    ),
    "PatioReviewsFail": (
        Case(
            "conversions",
            "12m",
            {_operator("admissions_total", webhook="conversion", outcome="error"): "0+1x20"},
            ({**IN_OPERATOR, "webhook": "conversion"},),
        ),
        Case(
            "allowed",
            "12m",
            {_operator("admissions_total", webhook="conversion", outcome="allowed"): "0+9x20"},
        ),
    ),
    "PatioReconcileStuck": (
        Case(
            "one object fails for ever",
            "30m",
            {_operator("queue_oldest_seconds", kind="RoleBasedGroup"): "0+60x40"},
            ({**IN_OPERATOR, "kind": "RoleBasedGroup"},),
        ),
        Case(
            "it succeeds now and then", "30m", {_operator("queue_oldest_seconds", kind="LoraAdapter"): "0+60x10 0+60x9"}
        ),
        Case("nothing is due", "30m", {_operator("queue_oldest_seconds", kind="LoraAdapter"): "0x40"}),
    ),
    "PatioWatchLost": (
        Case(
            "one of two replicas has no watch of pods",
            "20m",
            {
                _operator("watch_synced", resource="pods"): "1x5 0x20",
                _operator("watch_synced", resource="pods", pod="o2"): "1x30",
                _operator("watch_synced", resource="services"): "1x30",
            },
            ({**IN_OPERATOR, "resource": "pods"},),
        ),
        Case("it comes back", "20m", {_operator("watch_synced", resource="pods"): "1x5 0x5 1x2 0x5 1x9"}),
    ),
    "PatioAdapterNotReady": (
        Case(
            "its reason changes",
            "45m",
            {
                _object("loraadapter_ready", reason="Loading"): "0x20 _x40",
                _object("loraadapter_ready", reason="NoCapacity"): "_x21 0x40",
                _object("loraadapter_desired_pods"): "2x60",
            },
            (OF_OBJECT,),
        ),
        Case(
            "ready again in between",
            "45m",
            {
                _object("loraadapter_ready", reason="Loading"): "0x20 _ _ 0x40",
                _object("loraadapter_ready", reason="Loaded"): "_x20 1 1 _x40",
                _object("loraadapter_desired_pods"): "2x70",
            },
        ),
        Case(
            "scaled to zero",
            "45m",
            {
                _object("loraadapter_ready", reason="ScaledToZero"): "0x60",
                _object("loraadapter_desired_pods"): "0x60",
            },
        ),
    ),
    "PatioGroupNotReady": (
        Case("for an hour", "60m", {_object("rolebasedgroup_ready", reason="RoleNotReady"): "0x70"}, (OF_OBJECT,)),
        Case(
            "until its model is loaded",
            "60m",
            {
                _object("rolebasedgroup_ready", reason="RoleNotReady"): "0x30 _x40",
                _object("rolebasedgroup_ready", reason="AllRolesReady"): "_x31 1x40",
            },
        ),
    ),
    "PatioRolloutStopped": (
        Case(
            "a workload does not become ready",
            "25m",
            {_operator("profile_rolled_out", object_name="patio", reason="Stopped"): "0x40"},
            ({**IN_OPERATOR, "object_name": "patio"},),
        ),
        Case("it rolls", "25m", {_operator("profile_rolled_out", object_name="patio", reason="Rolling"): "0x40"}),
        Case(
            "nothing is rolled",
            "25m",
            {_operator("profile_rolled_out", object_name="patio", reason="NoUpdate"): "0x40"},
        ),
    ),
    "PatioSidecarsUnreachable": (
        Case(
            "two of ten",
            "25m",
            {
                _operator("sidecars", state="reachable"): "8x40",
                _operator("sidecars", state="unreachable"): "1x40",
                _operator("sidecars", state="rejecting"): "1x40",
                _operator("sidecars", pod="o2", state="reachable"): "0x40",
            },
            (IN_OPERATOR,),
        ),
        Case(
            "one of twenty",
            "25m",
            {_operator("sidecars", state="reachable"): "19x40", _operator("sidecars", state="unreachable"): "1x40"},
        ),
        Case(
            "a rollout of all pods",
            "25m",
            {
                _operator("sidecars", state="reachable"): "10x10 5x4 10x30",
                _operator("sidecars", state="unreachable"): "0x10 5x4 0x30",
            },
        ),
        Case("there is none", "25m", {_operator("sidecars", state="unreachable"): "0x40"}),
    ),
    "PatioWebhookCertificateExpires": (
        Case(
            "the certificate of one replica",
            "90m",
            # promtool's clock begins at 0.
            {
                _operator("certificate_expiry_timestamp_seconds", certificate="serving"): "1000000x100",
                _operator("certificate_expiry_timestamp_seconds", pod="o2", certificate="serving"): "9000000x100",
                _operator("certificate_expiry_timestamp_seconds", certificate="ca"): "9000000x100",
            },
            ({**IN_OPERATOR, "certificate": "serving"},),
        ),
        Case(
            "renewed in time",
            "90m",
            {_operator("certificate_expiry_timestamp_seconds", certificate="serving"): "1000000x40 9000000x60"},
        ),
        Case(
            "a month left",
            "90m",
            {_operator("certificate_expiry_timestamp_seconds", certificate="ca"): "2600000x100"},
        ),
    ),
    "PatioReconcilesFail": (
        Case(
            "one in three",
            "40m",
            {
                _operator("reconciles_total", kind="group", outcome="error"): "0+30x60",
                _operator("reconciles_total", kind="group", outcome="success"): "0+60x60",
            },
            ({**IN_OPERATOR, "kind": "group"},),
        ),
        Case(
            "one in sixty",
            "40m",
            {
                _operator("reconciles_total", kind="group", outcome="error"): "0+1x60",
                _operator("reconciles_total", kind="group", outcome="success"): "0+60x60",
            },
        ),
    ),
}


@dataclass(frozen=True)
class Scenario:
    """A whole fleet over time, and every alert that fires at some moment; no other one may."""

    name: str
    series: Mapping[str, str]
    fires: Mapping[str, tuple[str, ...]]
    """Alerts by the moment."""


def _engine(pod: str, values: Mapping[str, str], **labels: str) -> dict[str, str]:
    return {_model(name, pod=pod, **labels): value for name, value in values.items()}


def _serving(pod: str = "p", before: str = "", after: str = "") -> dict[str, str]:
    """Return an engine with load for 120 minutes, or as long as `before` and `after` leave it."""

    def over(steady: str) -> str:
        return " ".join(part for part in (before, steady, after) if part)

    length = 120 if not before and not after else 60
    gauges = {"num_requests_running": "4", "num_requests_waiting": "0", "kv_cache_usage_ratio": "0.97"}
    counters = {
        "input_tokens_total": 6000,
        "output_tokens_total": 3000,
        "request_queue_time_seconds_sum": 3,
        "request_queue_time_seconds_count": 60,
        "time_to_first_token_seconds_count": 60,
        "time_per_output_token_seconds_count": 60,
        "preemptions_total": 0,
    }
    found = _engine(pod, {name: over(f"{value}x{length}") for name, value in gauges.items()})
    found |= _engine(pod, {name: over(f"0+{each}x{length}") for name, each in counters.items()})
    for family, bound in (("time_to_first_token_seconds", "10"), ("time_per_output_token_seconds", "0.2")):
        found |= _engine(pod, {f"{family}_bucket": over(f"0+60x{length}")}, le=bound)
    found |= _engine(pod, {"requests_finished_total": over(f"0+59x{length}")}, finished_reason="stop")
    found |= _engine(pod, {"requests_finished_total": over(f"0+1x{length}")}, finished_reason="abort")
    found |= _engine(pod, {"requests_finished_total": over(f"0x{length}")}, finished_reason="error")
    return found


def _sidecar(pod: str, up: str, **adapters: str) -> dict[str, str]:
    found = {_pod("engine_up", pod=pod): up}
    found |= {_pod("topology_registered", pod=pod, router="http://r"): up}
    found |= {_pod("engine_scrape_errors_total", pod=pod, reason="connection"): "0+1x120"}
    found |= {_model("engine_info", pod=pod): "1x120", _pod("ready", pod=pod): up, _pod("draining", pod=pod): "0x120"}
    found |= {_pod("drains_total", pod=pod, outcome=outcome): "0x120" for outcome in ("drained", "requests")}
    for status, values in (("2xx", "0+60x120"), ("4xx", "0+9x120"), ("5xx", "0x120")):
        found |= {_pod("http_responses_total", pod=pod, inference_engine="vllm", **{"class": status}): values}
    for kind, size in (("used", 99), ("held", 10), ("free", 900), ("limit", 100)):
        found |= {_pod("download_disk_bytes", pod=pod, kind=kind): f"{size}x120"}
    return found | {_state(state, pod=pod): values for state, values in adapters.items()}


OPERATORS = {
    _operator("leader"): "1x120",
    _operator("leader", pod="o2"): "0x120",
    _operator("admissions_total", webhook="pods", outcome="allowed"): "0+2x120",
    _operator("admissions_total", webhook="pods", outcome="error"): "0x120",
    _operator("reconciles_total", kind="group", outcome="success"): "0+60x120",
    _operator("admission_duration_seconds_bucket", webhook="pods", le="0.01"): "0+2x120",
    _operator("admission_duration_seconds_bucket", webhook="pods", le="+Inf"): "0+2x120",
    _operator("queue_oldest_seconds", kind="LoraAdapter"): "0x120",
    _operator("sidecars", state="reachable"): "2x120",
    _operator("sidecars", state="unreachable"): "0x120",
    _operator("certificate_expiry_timestamp_seconds", certificate="serving"): "20000000x120",
    _object("loraadapter_ready", reason="Loaded"): "1x120",
    _object("loraadapter_desired_pods"): "1x120",
    _object("rolebasedgroup_ready", reason="AllRolesReady"): "1x120",
    _operator("profile_rolled_out", object_name="patio", reason="NoUpdate"): "0x120",
}
IDLE = {
    **_engine("p", {"num_requests_running": "0x120", "num_requests_waiting": "0x120", "kv_cache_usage_ratio": "0x120"}),
    **_engine("p", {"input_tokens_total": "9x120", "output_tokens_total": "9x120"}),
    **_engine("p", {"requests_finished_total": "9x120"}, finished_reason="stop"),
}
GONE = "_x60"

SCENARIOS = (
    Scenario("load on a full cache", {**_serving(), **_sidecar("p", "1x120", Loaded="1x120"), **OPERATORS}, {}),
    Scenario("nobody asks", {**IDLE, **_sidecar("p", "1x120", Loaded="1x120"), **OPERATORS}, {}),
    Scenario(
        "a rollout replaces the pod",
        {
            **_serving("p", after=GONE),
            **_serving("q", before=GONE),
            **_sidecar("p", "1x60 _x60", Loaded="1x60 _x60"),
            # Ten minutes to load the model, and the adapter after it.
            **_sidecar("q", "_x50 0x10 1x60", Pending="_x50 1x10 _x60", Loaded="_x60 1x60"),
            **OPERATORS,
        },
        {},
    ),
    Scenario(
        "the engine is killed and stays down",
        {
            **_serving("p", after=GONE),
            **_sidecar("p", "1x60 0x60", Loaded="1x60 _x60", Pending="_x60 1x60"),
            **OPERATORS,
        },
        {
            "64m": (),
            "67m": ("PatioEngineDown",),
            "78m": ("PatioEngineDown", "PatioModelGone"),
            "84m": ("PatioEngineDown", "PatioAdapterNowhere"),
            "95m": ("PatioEngineDown", "PatioAdapterNowhere", "PatioAdapterStuck"),
            "110m": ("PatioEngineDown", "PatioEngineNotStarted", "PatioAdapterNowhere", "PatioAdapterStuck"),
        },
    ),
    Scenario(
        "the operator is gone",
        {
            **_serving(),
            **_sidecar("p", "1x120", Loaded="1x120"),
            _operator("leader"): "1x60 _x60",
            _operator("leader", pod="o2"): "0x60 _x60",
        },
        {"64m": (), "72m": ("PatioOperatorAbsent",)},
    ),
    Scenario(
        "a rollout replaces the operator",
        {
            **_serving(),
            **_sidecar("p", "1x120", Loaded="1x120"),
            **OPERATORS,
            # One scrape finds no leader: the new one has the Lease, and its metrics say so a minute later.
            _operator("leader"): "1x60 stale _x59",
            _operator("leader", pod="o2"): "0x58 stale _x61",
            _operator("leader", pod="o3"): "_x57 0x4 1x60",
            _operator("leader", pod="o4"): "_x59 0x60",
        },
        {},
    ),
    Scenario(
        "the leader hangs",
        {
            **_serving(),
            **_sidecar("p", "1x120", Loaded="1x120"),
            **OPERATORS,
            _operator("leader"): "1x60 0x60",
        },
        {"61m": (), "64m": ("PatioOperatorLeaders",)},
    ),
)

"""The dashboard Fleet: is anything wrong, and where?"""

from __future__ import annotations

from patio_observability.dashboards.parts import (
    GREEN,
    LISTED,
    MODEL_KEY,
    NAMESPACE_KEY,
    POD_KEY,
    PODS,
    RED,
    TPOT_SLO,
    TTFT_SLO,
    UP,
    bad_from,
    good_from,
    in_state,
)
from patio_observability.model import Dashboard, Key, Kind, Panel, Query, Row, Step, Unit, graph, stat
from patio_observability.promql import (
    MODEL,
    POD,
    count,
    engine,
    failed_requests,
    fullest,
    grouped,
    mean,
    models,
    or_zero,
    own,
    quantile,
    rate,
    ratio,
    total,
    with_model,
    within,
)

MODEL_LEGEND = "{{namespace}} {{model_name}} {{inference_engine}}"

NOW = Row(
    "Now",
    (
        stat(
            "Pods",
            "Pods whose sidecar Prometheus scrapes.",
            "If pods are missing, look at the targets of Prometheus, then at `kubectl get pods -l patio.dev/injected`.",
            count(own("engine_up")),
            Unit.COUNT,
            empty="None",
        ),
        stat(
            "Engines up",
            "Pods whose engine answered the last scrape.",
            "Compare with the pods on the left.",
            total(own("engine_up")),
            Unit.COUNT,
            empty="None",
        ),
        stat(
            "Engines not up",
            "Pods whose engine did not answer the last scrape. Engines that are starting count as well.",
            "Open the pod in the table of pods. Runbook: PatioEngineDown.",
            or_zero(count(f"{own('engine_up')} == 0")),
            Unit.COUNT,
            Step(0, GREEN),
            Step(1, RED),
        ),
        stat(
            "Not ready",
            "Pods whose sidecar answers /ready with 503: Services send them nothing.",
            "The dashboard of the pod says what its readiness waits for.",
            or_zero(count(f"{own('ready')} == 0")),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Server errors",
            "Share of HTTP responses with a status of 500 or more, without probes and lists.",
            "See which model fails, then the engine's log. Runbook: PatioServerErrors.",
            ratio(
                total(with_model(rate(own("http_responses_total", 'class="5xx"')))),
                total(with_model(rate(own("http_responses_total")))),
            ),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.001, 0.01),
        ),
        stat(
            "Requests",
            "Finished requests a second, of all chosen models.",
            "Nothing finishes while requests run: runbook PatioEngineStalled.",
            total(rate(engine("requests_finished_total"))),
            Unit.REQUESTS_PER_SECOND,
        ),
        stat(
            "Failed requests",
            "Share of requests that were rejected or aborted, or that ended by an error. On SGLang most aborts are "
            "clients that hung up.",
            "Above 5 %, see which model fails, then the engine's log. Runbook: PatioRequestsFail.",
            ratio(failed_requests(), total(rate(engine("requests_finished_total")))),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.01, 0.05),
        ),
        stat(
            "Input tokens",
            "Prompt tokens that the engines process in a second.",
            "Compare with the same hour of another day.",
            total(rate(engine("input_tokens_total"))),
            Unit.TOKENS_PER_SECOND,
        ),
        stat(
            "Output tokens",
            "Tokens that the engines generate in a second.",
            "If it falls while requests run, look at latency and preemptions.",
            total(rate(engine("output_tokens_total"))),
            Unit.TOKENS_PER_SECOND,
        ),
        stat(
            "TTFT, p95",
            "95 % of requests get their first token within this time, for each engine.",
            "If it grows, look at the queue first: a long queue needs more pods. Runbook: PatioTimeToFirstTokenSLO.",
            quantile(0.95, engine("time_to_first_token_seconds")),
            Unit.SECONDS,
            legend="{{inference_engine}}",
        ),
        stat(
            "TTFT in time",
            "Share of requests with their first token within the time that the variable chooses.",
            "Below your objective, find the model in the table.",
            within(engine("time_to_first_token_seconds"), "${ttft_slo}"),
            Unit.SHARE,
            *good_from(0.9, 0.95),
        ),
        stat(
            "Tokens in time",
            "Share of requests whose mean time for each token is within the time that the variable chooses.",
            "Below your objective, the batch is too large for the hardware, or the KV cache is full.",
            within(engine("time_per_output_token_seconds"), "${tpot_slo}"),
            Unit.SHARE,
            *good_from(0.9, 0.95),
        ),
        stat(
            "Running",
            "Requests in execution.",
            "Compare with the batch size of the engines.",
            total(engine("num_requests_running")),
            Unit.COUNT,
        ),
        stat(
            "Waiting",
            "Requests in the engines' queues.",
            "If requests wait for minutes, add pods. Runbook: PatioQueueLongerThanBatch.",
            total(engine("num_requests_waiting")),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(10),
        ),
        stat(
            "Fullest KV cache",
            "Used share of the fullest KV cache.",
            "Full is normal under load. Full with waiting requests is not. Runbook: PatioKVCacheExhausted.",
            fullest(engine("kv_cache_usage_ratio")),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.9, 0.97),
        ),
        stat(
            "Adapters loaded",
            "Share of desired adapters, counted on each pod, that the engine has loaded.",
            "Below 100 % for long, open the dashboard of the adapters.",
            ratio(
                count(in_state("Loaded")),
                count(own("lora_adapter_state", 'state!="Unloading"')),
            ),
            Unit.SHARE,
            *good_from(0.9, 1),
            empty="No adapters",
        ),
        stat(
            "Adapters failed",
            "Adapters, counted on each pod, that the engine rejected or that could not be fetched.",
            "Open the dashboard of the adapters. Runbook: PatioAdapterFailed.",
            or_zero(count(in_state("Failed"))),
            Unit.COUNT,
            Step(0, GREEN),
            Step(1, RED),
        ),
        stat(
            "Firing alerts",
            "Alerts of Patio that fire in the chosen namespaces and for the whole cluster.",
            "Open the alert. Its annotations link to the runbook.",
            or_zero(count('ALERTS{alertname=~"Patio.*", alertstate="firing", namespace=~"$namespace|"}')),
            Unit.COUNT,
            Step(0, GREEN),
            Step(1, RED),
        ),
    ),
)

MODELS = Row(
    "Models",
    (
        Panel(
            "Models",
            "One line for each model and engine, also while no engine of it is up. TTFT is the time to the first "
            "token, ITL the time between two tokens, and KV cache the fullest one.",
            "A click on a model filters by it. Start with the model that has errors or waiting requests.",
            (
                Query(count(engine("engine_info"), *MODEL), "Pods"),
                Query(
                    total(
                        f"{own('engine_up')} * on (cluster, namespace, pod) "
                        f"group_left (model_name, inference_engine) {models('model_name', 'inference_engine')}",
                        *MODEL,
                    ),
                    "Up",
                ),
                Query(
                    total(rate(engine("requests_finished_total")), *MODEL), "Requests", unit=Unit.REQUESTS_PER_SECOND
                ),
                Query(total(rate(engine("output_tokens_total")), *MODEL), "Output", unit=Unit.TOKENS_PER_SECOND),
                Query(quantile(0.95, engine("time_to_first_token_seconds"), *MODEL), "TTFT p95", unit=Unit.SECONDS),
                Query(quantile(0.95, engine("inter_token_latency_seconds"), *MODEL), "ITL p95", unit=Unit.SECONDS),
                Query(
                    ratio(failed_requests(*MODEL), total(rate(engine("requests_finished_total")), *MODEL)),
                    "Failed",
                    unit=Unit.SHARE,
                ),
                Query(fullest(engine("kv_cache_usage_ratio"), *MODEL), "KV cache", unit=Unit.SHARE),
                Query(total(engine("num_requests_waiting"), *MODEL), "Waiting"),
                Query(total(rate(engine("preemptions_total")), *MODEL), "Preemptions", unit=Unit.OPERATIONS_PER_SECOND),
            ),
            Unit.COUNT,
            Kind.TABLE,
            width=24,
            keys=(NAMESPACE_KEY, MODEL_KEY, Key("inference_engine", "Engine")),
        ),
    ),
)

PODS_ROW = Row(
    "Pods",
    (
        Panel(
            "Pods",
            "One line for each pod with a sidecar. Loaded and Failed count its adapters.",
            "A click on a pod opens its dashboard. Start with pods that are not up or have failed adapters.",
            (
                Query(fullest(own("engine_up"), *POD), "Engine is", states=UP),
                Query(fullest(own("ready"), *POD), "Ready"),
                Query(total(engine("num_requests_running"), *POD, "model_name"), "Running"),
                Query(total(engine("num_requests_waiting"), *POD, "model_name"), "Waiting"),
                Query(fullest(engine("kv_cache_usage_ratio"), *POD, "model_name"), "KV cache", unit=Unit.SHARE),
                Query(
                    quantile(0.95, engine("time_to_first_token_seconds"), *POD, "model_name"),
                    "TTFT p95",
                    unit=Unit.SECONDS,
                ),
                *(
                    # A pod whose adapters are all in another state has 0 of them.
                    Query(f"{count(in_state(state), *POD)} or 0 * {count(own('lora_adapter_state'), *POD)}", state)
                    for state in ("Loaded", "Failed")
                ),
                Query(grouped("min", own("topology_registered"), *POD), "Router", states=LISTED),
                Query(
                    count(
                        own("build_info"),
                        *POD,
                        "version",
                        "inference_engine",
                        "inference_engine_version",
                        "rbg_workloads_x_k8s_io_group_name",
                        "rbg_workloads_x_k8s_io_role_name",
                    ),
                ),
            ),
            Unit.COUNT,
            Kind.TABLE,
            width=24,
            height=10,
            empty="None",
            keys=(
                NAMESPACE_KEY,
                POD_KEY,
                Key("model_name", "Model", width=150),
                Key("rbg_workloads_x_k8s_io_group_name", "Group"),
                Key("rbg_workloads_x_k8s_io_role_name", "Role"),
                Key("version", "Sidecar"),
                Key("inference_engine", "Engine"),
                Key("inference_engine_version", "Version"),
            ),
        ),
        Panel(
            "Engines",
            "Whether each pod's engine answered, over time.",
            "An engine that goes up and down is restarted: `kubectl describe pod`. Runbook: PatioEngineDown.",
            (Query(grouped("min", own("engine_up"), *POD), "{{namespace}}/{{pod}}"),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=24,
            empty="None",
            states=UP,
            opens_pod=True,
        ),
    ),
)


def _latency(title: str, family: str, shows: str, act: str) -> Panel:
    labels = ("namespace", "model_name")
    return graph(
        title,
        f"{shows} For each model and engine: half, 95 % and 99 % of the observations are below the lines.",
        act,
        Unit.SECONDS,
        *(
            Query(quantile(which, engine(family), *labels), f"{MODEL_LEGEND} p{which * 100:.0f}")
            for which in (0.5, 0.95, 0.99)
        ),
        width=12,
    )


LATENCY = Row(
    "Latency",
    (
        _latency(
            "Time to first token",
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first token.",
            "It contains the queue and prefill: see which of them grew in the phases below.",
        ),
        _latency(
            "Inter-token latency",
            "inter_token_latency_seconds",
            "Time between two tokens.",
            "It grows with the batch and with long prefills between the steps. Limit the batch, or split prefill from "
            "decode.",
        ),
        _latency(
            "Time per output token",
            "time_per_output_token_seconds",
            "Mean time between the tokens of a request.",
            "Read it beside inter-token latency: if only that one has high values, single steps are slow.",
        ),
        _latency(
            "Request latency",
            "e2e_request_latency_seconds",
            "Time from a request's arrival to its end.",
            "It depends on the length of the answers: compare with the output length first.",
        ),
        Panel(
            "Mean time in each phase",
            "Mean seconds of a request in the queue, in prefill and in decode. SGLang has the queue only.",
            "A large queue needs more pods. Large prefill needs a better cache hit rate or shorter prompts.",
            (
                Query(mean(engine("request_queue_time_seconds"), "namespace", "model_name"), "{{model_name}} queue"),
                Query(
                    mean(engine("request_prefill_time_seconds"), "namespace", "model_name"),
                    "{{model_name}} prefill",
                ),
                Query(mean(engine("request_decode_time_seconds"), "namespace", "model_name"), "{{model_name}} decode"),
            ),
            Unit.SECONDS,
            stacked=True,
            width=24,
        ),
    ),
)

THROUGHPUT = Row(
    "Throughput",
    (
        graph(
            "Requests",
            "Finished requests a second for each model.",
            "A fall to zero while requests run is a stalled engine.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(engine("requests_finished_total")), "namespace", "model_name"), "{{model_name}}"),
        ),
        graph(
            "Input tokens",
            "Prompt tokens processed in a second for each model.",
            "Compare with the output: prompts that grow need more KV cache.",
            Unit.TOKENS_PER_SECOND,
            Query(total(rate(engine("input_tokens_total")), "namespace", "model_name"), "{{model_name}}"),
        ),
        graph(
            "Output tokens",
            "Tokens generated in a second for each model.",
            "This is what the hardware delivers: watch it across rollouts.",
            Unit.TOKENS_PER_SECOND,
            Query(total(rate(engine("output_tokens_total")), "namespace", "model_name"), "{{model_name}}"),
        ),
        graph(
            "Finished, by reason",
            "Finished requests a second by reason. SGLang gives no reason: its line has no name behind the engine.",
            "Many `length` are answers that were cut: raise max_tokens. Many `abort` are clients that hung up.",
            Unit.REQUESTS_PER_SECOND,
            Query(
                total(rate(engine("requests_finished_total")), "inference_engine", "finished_reason"),
                "{{inference_engine}} {{finished_reason}}",
            ),
        ),
        graph(
            "Responses, by class",
            "HTTP responses a second by class of status, without probes, metrics, lists, and loads of adapters.",
            "`5xx` is the engine's fault, `4xx` the client's. Runbook: PatioServerErrors.",
            Unit.REQUESTS_PER_SECOND,
            Query(
                total(with_model(rate(own("http_responses_total"))), "namespace", "model_name", "class"),
                "{{model_name}} {{class}}",
            ),
        ),
        graph(
            "Errors",
            "Requests a second that vLLM rejected at admission, or that SGLang aborted.",
            "Rejections mean a full queue: add pods. Runbook: PatioRequestsFail.",
            Unit.REQUESTS_PER_SECOND,
            Query(
                total(rate(engine("request_errors_total")), "namespace", "model_name", "reason"),
                "{{model_name}} {{reason}}",
            ),
        ),
        graph(
            "Preemptions",
            "Requests a second that engines put back into the queue, since the KV cache was full.",
            "Add pods, or lower the number of sequences in a batch. Runbook: PatioPreemptionsHigh.",
            Unit.OPERATIONS_PER_SECOND,
            Query(total(rate(engine("preemptions_total")), "namespace", "model_name"), "{{model_name}}"),
            width=16,
        ),
        graph(
            "Prompt length",
            "Prompt tokens of a request: median and p95, for each engine.",
            "If prompts grow, so do prefill time and KV cache.",
            Unit.TOKENS,
            *(
                Query(
                    quantile(which, engine("request_prompt_tokens"), "model_name"),
                    f"{{{{model_name}}}} {{{{inference_engine}}}} p{which * 100:.0f}",
                )
                for which in (0.5, 0.95)
            ),
            width=12,
        ),
        graph(
            "Output length",
            "Tokens generated for a request: median and p95, for each engine.",
            "Longer answers hold their place in the batch longer.",
            Unit.TOKENS,
            *(
                Query(
                    quantile(which, engine("request_output_tokens"), "model_name"),
                    f"{{{{model_name}}}} {{{{inference_engine}}}} p{which * 100:.0f}",
                )
                for which in (0.5, 0.95)
            ),
            width=12,
        ),
    ),
)

SATURATION = Row(
    "Saturation",
    (
        graph(
            "Running and waiting",
            "Requests in execution and in the queue for each model.",
            "A queue that stays longer than the batch needs more pods: scale on `patio:num_requests_waiting`.",
            Unit.COUNT,
            Query(total(engine("num_requests_running"), "namespace", "model_name"), "{{model_name}} running"),
            Query(total(engine("num_requests_waiting"), "namespace", "model_name"), "{{model_name}} waiting"),
        ),
        Panel(
            "KV cache",
            "Used share of the KV caches of each model: fullest, mean and emptiest pod.",
            "A wide gap is uneven load: look at the router. Full everywhere with a queue needs more pods.",
            tuple(
                Query(
                    grouped(how, engine("kv_cache_usage_ratio"), "namespace", "model_name"),
                    f"{{{{model_name}}}} {word}",
                )
                for how, word in (("max", "fullest"), ("avg", "mean"), ("min", "emptiest"))
            ),
            Unit.SHARE,
            greatest=1,
        ),
        graph(
            "Free KV cache",
            "Tokens that still fit in the KV caches of each model.",
            "Less than a few prompts: add pods before requests wait.",
            Unit.TOKENS,
            Query(
                total(
                    f"{total(own('kv_cache_capacity_tokens'), *POD)} * on ({', '.join(POD)}) group_right () "
                    f"(1 - {fullest(engine('kv_cache_usage_ratio'), *POD, 'model_name')})",
                    "namespace",
                    "model_name",
                ),
                "{{model_name}}",
            ),
        ),
    ),
)

VERSIONS = Row(
    "Versions",
    (
        Panel(
            "Versions",
            "Pods by version of sidecar and engine.",
            "Two versions at a time are a rollout in progress, or one that stopped.",
            (
                Query(
                    count(own("build_info"), "version", "inference_engine", "inference_engine_version"),
                    "{{version}} with {{inference_engine}} {{inference_engine_version}}",
                ),
            ),
            Unit.COUNT,
            empty="None",
            stacked=True,
            width=24,
        ),
    ),
)

FLEET = Dashboard(
    "patio-fleet",
    "Patio / Fleet",
    "Is anything wrong, and where? All models and pods with a sidecar.",
    (*PODS, TTFT_SLO, TPOT_SLO),
    (NOW, MODELS, PODS_ROW, LATENCY, THROUGHPUT, SATURATION, VERSIONS),
)

"""The dashboard Engine: the pods of one model side by side, to find the one that differs; or one pod."""

from __future__ import annotations

from dataclasses import replace

from patio_observability.dashboards.parts import AWAKE, DRAINING, GREEN, LISTED, PODS, RED, UP, bad_from
from patio_observability.model import Dashboard, Kind, Panel, Query, Row, Step, Unit, graph, stat
from patio_observability.promql import (
    above_zero,
    engine,
    external,
    failed_requests,
    fullest,
    grouped,
    increase,
    mean,
    of_model,
    or_zero,
    own,
    own_quantile,
    quantile,
    rate,
    ratio,
    total,
    with_model,
    within,
)

BY_POD = ("namespace", "pod")
LEGEND = "{{pod}}"


def _by_pod(title: str, shows: str, act: str, unit: Unit, *queries: Query) -> Panel:
    return graph(title, shows, act, unit, *queries)


def _latency(title: str, family: str, shows: str, act: str) -> Panel:
    return graph(
        title,
        f"{shows} 95 % of the observations of each pod are below its line.",
        act,
        Unit.SECONDS,
        Query(quantile(0.95, engine(family), *BY_POD), f"{LEGEND} {{{{inference_engine}}}}"),
    )


def _heatmap(title: str, family: str, unit: Unit, act: str) -> Panel:
    return Panel(
        f"{title}, $inference_engine",
        "How many observations a second fell into each bucket. One panel for each engine, since their buckets differ.",
        act,
        (Query(total(rate(_buckets(family)), "inference_engine", "le"), "{{le}}"),),
        unit,
        Kind.HEATMAP,
        # A repeated panel takes the whole width, and shares it with its copies.
        width=24,
        repeat="inference_engine",
    )


def _buckets(family: str) -> str:
    name, brace, selector = engine(family).partition("{")
    return f"{name}_bucket{brace}{selector}"


NOW = Row(
    "Now",
    (
        stat(
            "Up",
            "Pods whose engine answered the last scrape.",
            "None: `kubectl describe pod`, then the engine's log. Runbook: PatioEngineDown.",
            total(own("engine_up")),
            Unit.COUNT,
            Step(0, RED),
            Step(1, GREEN),
            empty="None",
        ),
        stat(
            "Running",
            "Requests in execution.",
            "Compare with the batch size.",
            total(engine("num_requests_running")),
            Unit.COUNT,
        ),
        stat(
            "Waiting",
            "Requests in the queue.",
            "A queue on one pod only is uneven load.",
            total(engine("num_requests_waiting")),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(10),
        ),
        stat(
            "Fullest KV cache",
            "Used share of the fullest KV cache.",
            "Full with waiting requests: runbook PatioKVCacheExhausted.",
            fullest(engine("kv_cache_usage_ratio")),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.9, 0.97),
        ),
        stat(
            "KV cache size",
            "Tokens that fit in the KV caches.",
            "Pods of one model should have the same size: a smaller one has less GPU memory left.",
            total(of_model("kv_cache_capacity_tokens")),
            Unit.TOKENS,
            empty="Unknown",
        ),
        stat(
            "Longest context",
            "Longest context that the model takes.",
            "Longer prompts are rejected by the engine.",
            fullest(engine("model_context_tokens")),
            Unit.TOKENS,
            empty="Unknown",
        ),
        stat(
            "Failed requests",
            "Share of requests that were rejected or aborted, or that ended by an error.",
            "See the engine's log. Runbook: PatioRequestsFail.",
            ratio(failed_requests(), total(rate(engine("requests_finished_total")))),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.01, 0.05),
        ),
        stat(
            "TTFT in 10 s",
            "Share of requests with their first token within 10 seconds.",
            "Runbook: PatioTimeToFirstTokenSLO.",
            within(engine("time_to_first_token_seconds"), "10"),
            Unit.SHARE,
            Step(0, RED),
            Step(0.95, GREEN),
        ),
        Panel(
            "Engine",
            "Whether each pod's engine answered, over time.",
            "Compare the times with restarts of the engine's container.",
            (Query(grouped("min", own("engine_up"), *BY_POD), LEGEND),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=24,
            height=6,
            empty="None",
            states=UP,
        ),
    ),
)

LOAD = Row(
    "Load",
    (
        _by_pod(
            "Running",
            "Requests in execution on each pod.",
            "Pods of one model should have about the same: if not, look at the router.",
            Unit.COUNT,
            Query(total(engine("num_requests_running"), *BY_POD), LEGEND),
        ),
        _by_pod(
            "Waiting",
            "Requests in the queue of each pod.",
            "A queue on one pod only: drain and restart it, or fix the router.",
            Unit.COUNT,
            Query(total(engine("num_requests_waiting"), *BY_POD), LEGEND),
        ),
        _by_pod(
            "Requests",
            "Finished requests a second on each pod.",
            "A pod at zero with running requests is stalled. Runbook: PatioEngineStalled.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(engine("requests_finished_total")), *BY_POD), LEGEND),
        ),
        _by_pod(
            "Input tokens",
            "Prompt tokens that each pod processes in a second.",
            "On prefill pods this is the work; on decode pods it may be zero.",
            Unit.TOKENS_PER_SECOND,
            Query(total(rate(engine("input_tokens_total")), *BY_POD), LEGEND),
        ),
        _by_pod(
            "Output tokens",
            "Tokens that each pod generates in a second.",
            "The slowest pod shows a slow GPU or a throttled CPU.",
            Unit.TOKENS_PER_SECOND,
            Query(total(rate(engine("output_tokens_total")), *BY_POD), LEGEND),
        ),
        _by_pod(
            "Output tokens for each running request",
            "Tokens generated in a second, divided by running requests: the speed that a user sees.",
            "If it falls while the batch stays the same, single steps became slower.",
            Unit.TOKENS_PER_SECOND,
            Query(
                ratio(
                    total(rate(engine("output_tokens_total")), *BY_POD),
                    total(f"avg_over_time({engine('num_requests_running')}[$__rate_interval])", *BY_POD),
                ),
                LEGEND,
            ),
        ),
        _by_pod(
            "Waiting, by reason",
            "Requests in the queue of each pod, by why they wait. vLLM only.",
            "`capacity` needs more pods. `deferred` waits for an adapter's slot or for a transfer of KV cache.",
            Unit.COUNT,
            Query(total(engine("num_requests_waiting_by_reason"), *BY_POD, "reason"), f"{LEGEND} {{{{reason}}}}"),
        ),
        _by_pod(
            "Responses, by class",
            "HTTP responses a second of each pod, by class of status, without probes and lists.",
            "A pod with `5xx` among others without is broken: its engine's log says why. Runbook: PatioServerErrors.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(with_model(rate(own("http_responses_total"))), *BY_POD, "class"), f"{LEGEND} {{{{class}}}}"),
        ),
        Panel(
            "Asleep",
            "Whether each pod's engine is awake, or in vLLM's sleep mode. vLLM only.",
            "An engine that is asleep answers no request: wake it up, or take the pod out of service.",
            (Query(grouped("min", engine("engine_sleep_state", 'sleep_state="awake"'), *BY_POD), LEGEND),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            empty="No sleep mode",
            states=AWAKE,
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        _latency(
            "Time to first token, p95",
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first token.",
            "Compare with the queue time: what is left is prefill.",
        ),
        _latency(
            "Inter-token latency, p95",
            "inter_token_latency_seconds",
            "Time between two tokens.",
            "One slow pod has a slow device. All slow: the batch is too large, or long prefills come in between.",
        ),
        _latency(
            "Time per output token, p95",
            "time_per_output_token_seconds",
            "Mean time between the tokens of a request.",
            "Compare the pods: all of them slow is load, one of them slow is a device.",
        ),
        _latency(
            "Request latency, p95",
            "e2e_request_latency_seconds",
            "Time from a request's arrival to its end.",
            "It depends on the length of the answers.",
        ),
        _latency(
            "Queue time, p95",
            "request_queue_time_seconds",
            "Time that a request waited.",
            "More than a few seconds needs more pods. Runbook: PatioQueueTimeHigh.",
        ),
        graph(
            "Mean time of prefill and decode",
            "Mean seconds of a request in prefill and in decode on each pod. vLLM only.",
            "Prefill grows with prompts and with cache misses, decode with the length of answers and the batch.",
            Unit.SECONDS,
            Query(mean(engine("request_prefill_time_seconds"), *BY_POD), f"{LEGEND} prefill"),
            Query(mean(engine("request_decode_time_seconds"), *BY_POD), f"{LEGEND} decode"),
        ),
        _heatmap(
            "Time to first token",
            "time_to_first_token_seconds",
            Unit.SECONDS,
            "Two bands are two kinds of requests, for example cached and not cached prompts.",
        ),
        _heatmap(
            "Inter-token latency",
            "inter_token_latency_seconds",
            Unit.SECONDS,
            "A second band far above the first one is steps that contain a prefill.",
        ),
        _heatmap(
            "Request latency",
            "e2e_request_latency_seconds",
            Unit.SECONDS,
            "Compare with the output length.",
        ),
        _heatmap(
            "Prompt length",
            "request_prompt_tokens",
            Unit.TOKENS,
            "Few very long prompts can hold up many short ones.",
        ),
    ),
)

CACHE = Row(
    "Cache and batch",
    (
        graph(
            "KV cache",
            "Used share of the KV cache of each pod.",
            "Full with a queue: more pods, or a smaller batch. Runbook: PatioKVCacheExhausted.",
            Unit.SHARE,
            Query(fullest(engine("kv_cache_usage_ratio"), *BY_POD), LEGEND),
            greatest=1,
        ),
        graph(
            "Cached prompt tokens",
            "Share of prompt tokens that the engine's own prefix cache had, and that any cache had.",
            "A low share with equal prompts: route requests of one prompt to one pod.",
            Unit.SHARE,
            Query(
                ratio(
                    total(rate(engine("prefix_cache_hits_total")), *BY_POD),
                    total(rate(engine("input_tokens_total")), *BY_POD),
                ),
                f"{LEGEND} own",
            ),
            Query(
                ratio(
                    total(rate(engine("prompt_tokens_cached_total")), *BY_POD),
                    total(rate(engine("input_tokens_total")), *BY_POD),
                ),
                f"{LEGEND} any",
            ),
            greatest=1,
        ),
        graph(
            "Preemptions",
            "Requests a second that each pod put back into the queue, since its KV cache was full.",
            "More than one in ten requests: runbook PatioPreemptionsHigh.",
            Unit.OPERATIONS_PER_SECOND,
            Query(total(rate(engine("preemptions_total")), *BY_POD), LEGEND),
        ),
        graph(
            "Accepted draft tokens",
            "Share of drafted tokens that the model accepted, with speculative decoding.",
            "Below one half drafting costs more than it brings.",
            Unit.SHARE,
            Query(grouped("avg", engine("spec_decode_acceptance_ratio"), *BY_POD), LEGEND),
            greatest=1,
            empty="No speculative decoding",
        ),
        graph(
            "Adapter slots",
            "Adapters in the batch of each pod, and how many fit into one. vLLM counts adapters of running requests, "
            "SGLang those in its pool.",
            "All in use: requests for other adapters wait. Raise the engine's limit, or spread adapters over pods.",
            Unit.COUNT,
            Query(total(of_model("lora_slots_used"), *BY_POD), LEGEND),
            Query(fullest(of_model("lora_slots"), "namespace"), "slots in {{namespace}}"),
            empty="No adapters",
        ),
        graph(
            "Failed requests",
            "Requests a second that each pod rejected or aborted.",
            "See the engine's log. Runbook: PatioRequestsFail.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(engine("request_errors_total")), *BY_POD), LEGEND),
        ),
    ),
)

LIFE = Row(
    "Start, readiness and drain",
    (
        graph(
            "Not ready, since it waits for",
            "What each pod's readiness waits for: its engine, a number of required adapters, or its end after a drain.",
            "`engine` for long: runbook PatioEngineNotStarted. `adapter`: see the dashboard of the adapters.",
            Unit.COUNT,
            Query(above_zero(total(own("waiting_for"), *BY_POD, "reason")), f"{LEGEND} {{{{reason}}}}"),
            empty="All pods are ready",
        ),
        graph(
            "Restarts of the engine",
            "Times in each hour that each pod's engine was ready again after nothing had listened on its port.",
            "`kubectl logs --previous` has the last words of the engine.",
            Unit.COUNT,
            Query(total(increase(own("engine_restarts_total"), "1h"), *BY_POD), LEGEND),
            empty="None",
            bars=True,
        ),
        graph(
            "Start of the engine",
            "Seconds that each engine's last start took, from when nothing listened on its port.",
            "Pods of one model should take about the same. A slow one has a slow disk, or downloads the model.",
            Unit.SECONDS,
            Query(fullest(own("engine_start_seconds"), *BY_POD), LEGEND),
            empty="No start was seen",
        ),
        Panel(
            "Drained",
            "Which pods were drained, or are being. Such a pod is out of service until its sidecar restarts.",
            "A pod that stays drained and is not deleted serves nothing: delete it.",
            (Query(fullest(own("draining"), *BY_POD), LEGEND),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            empty="None",
            states=DRAINING,
        ),
        graph(
            "Drains, by outcome",
            "Answered calls for a drain in each hour, by outcome.",
            "`requests`: requests were running when the time was over. Runbook: PatioDrainCut.",
            Unit.COUNT,
            Query(total(increase(own("drains_total"), "1h"), *BY_POD, "outcome"), f"{LEGEND} {{{{outcome}}}}"),
            empty="None",
            bars=True,
        ),
        graph(
            "Duration of a drain, p95",
            "Seconds from a call for a drain to its answer.",
            "Near the timeout, requests are cut: raise terminationGracePeriodSeconds of the pods.",
            Unit.SECONDS,
            Query(own_quantile(0.95, own("drain_duration_seconds"), "namespace"), "{{namespace}}"),
            empty="None",
        ),
    ),
)

SIDECAR = Row(
    "Sidecar",
    (
        graph(
            "Scrape duration",
            "Seconds that the last scrape of the engine took on each pod.",
            "Near the scrape timeout the engine's process is busy: give it more CPU.",
            Unit.SECONDS,
            Query(fullest(own("scrape_duration_seconds"), *BY_POD), LEGEND),
            width=6,
            empty="None",
        ),
        graph(
            "Failed scrapes",
            "Failed scrapes of the engine, by reason, in each five minutes.",
            "`connection` is an engine that starts. Others: runbook PatioScrapesFail.",
            Unit.COUNT,
            Query(
                total(increase(own("engine_scrape_errors_total"), "5m"), *BY_POD, "reason"),
                f"{LEGEND} {{{{reason}}}}",
            ),
            width=6,
            empty="None",
        ),
        graph(
            "Rejected calls",
            "Calls from outside the pod that the sidecar rejected, by code, in each five minutes.",
            "`UnknownKey`: the operator cannot reach its own pods. Runbook: PatioCallsRejected.",
            Unit.COUNT,
            Query(
                above_zero(total(increase(own("access_denials_total"), "5m"), *BY_POD, "code")),
                f"{LEGEND} {{{{code}}}}",
            ),
            width=6,
            empty="None",
        ),
        graph(
            "Since the operator's last call",
            "Seconds since each sidecar got a long-poll, and accepted a call that the operator signed. Only orders are "
            "signed, so on a pod whose adapters do not change the last one may be days old.",
            "A long-poll that is minutes old: a NetworkPolicy on one pod, the operator on all.",
            Unit.SECONDS,
            Query(
                fullest(f"time() - ({own('operator_contact_timestamp_seconds')} > 0)", *BY_POD, "kind"),
                f"{LEGEND} {{{{kind}}}}",
            ),
            width=6,
            empty="None",
        ),
    ),
)

TOPOLOGY = Row(
    "Router",
    (
        Panel(
            "Registered",
            "Whether each router lists the pod's worker as healthy.",
            "Not listed: the pod gets no requests from that router. Runbook: PatioNotRegistered.",
            (Query(fullest(own("topology_registered"), *BY_POD, "router"), f"{LEGEND} at {{{{router}}}}"),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=12,
            empty="No router",
            states=LISTED,
        ),
        graph(
            "Failed requests to routers",
            "Requests of sidecars to routers that failed, by reason, in each five minutes.",
            "Look at the router's log at the same time.",
            Unit.COUNT,
            Query(total(increase(own("topology_failures_total"), "5m"), *BY_POD, "reason"), f"{LEGEND} {{{{reason}}}}"),
            width=6,
            empty="None",
        ),
        graph(
            "Leases",
            "Workers that a sidecar beside a router keeps registered, by state.",
            "A state other than Registered for long: the sidecar's log beside the router names the worker.",
            Unit.COUNT,
            Query(total(own("topology_leases"), *BY_POD, "state"), f"{LEGEND} {{{{state}}}}"),
            width=6,
            empty="No router",
        ),
    ),
)

CONTAINERS = Row(
    "Containers (from cAdvisor and kube-state-metrics)",
    (
        graph(
            "CPU",
            "CPU cores that each container uses.",
            "An engine at its limit is slow to answer scrapes and requests.",
            Unit.CORES,
            Query(
                total(rate(external("container_cpu_usage_seconds_total")), *BY_POD, "container"),
                f"{LEGEND} {{{{container}}}}",
            ),
            width=6,
            empty="Not scraped",
        ),
        graph(
            "Throttled",
            "Share of CPU periods in which a container was throttled.",
            "Above 10 %, raise or remove the CPU limit of the engine.",
            Unit.SHARE,
            Query(
                ratio(
                    total(rate(external("container_cpu_cfs_throttled_periods_total")), *BY_POD, "container"),
                    total(rate(external("container_cpu_cfs_periods_total")), *BY_POD, "container"),
                ),
                f"{LEGEND} {{{{container}}}}",
            ),
            width=6,
            empty="Not scraped",
        ),
        graph(
            "Memory",
            "Memory that each container needs, without what the kernel could free.",
            "Near the limit, the container is killed: `kubectl describe pod` says OOMKilled.",
            Unit.BYTES,
            Query(
                total(external("container_memory_working_set_bytes"), *BY_POD, "container"),
                f"{LEGEND} {{{{container}}}}",
            ),
            width=6,
            empty="Not scraped",
        ),
        graph(
            "Restarts",
            "Restarts of each container in the last hour.",
            "`kubectl logs --previous` has the last words of the container.",
            Unit.COUNT,
            Query(
                or_zero(
                    total(increase(external("kube_pod_container_status_restarts_total"), "1h"), *BY_POD, "container")
                ),
                f"{LEGEND} {{{{container}}}}",
            ),
            width=6,
            empty="Not scraped",
        ),
    ),
    collapsed=True,
)


def _gpu(title: str, metric: str, shows: str, act: str, unit: Unit) -> Panel:
    series = f'{metric}{{cluster=~"$cluster", namespace=~"$namespace", pod=~"$pod"}}'
    panel = graph(title, shows, act, unit, Query(fullest(series, *BY_POD, "gpu"), f"{LEGEND} GPU {{{{gpu}}}}"))
    return replace(panel, width=6, empty="Not scraped")


GPUS = Row(
    "GPUs (from the DCGM exporter)",
    (
        _gpu(
            "GPU busy",
            "DCGM_FI_DEV_GPU_UTIL",
            "Share of time in which a kernel ran on the GPU.",
            "Zero while requests run is a stalled engine.",
            Unit.PERCENT,
        ),
        _gpu(
            "GPU memory",
            "DCGM_FI_DEV_FB_USED",
            "Used memory of the GPU in MiB.",
            "It is full by design: engines take what they are allowed to.",
            Unit.COUNT,
        ),
        _gpu(
            "Power",
            "DCGM_FI_DEV_POWER_USAGE",
            "Power of the GPU.",
            "A GPU below the others under the same load is throttled.",
            Unit.WATTS,
        ),
        _gpu(
            "XID errors",
            "DCGM_FI_DEV_XID_ERRORS",
            "Number of the last XID error of the GPU.",
            "Any other than 0: drain the pod, and look the number up at NVIDIA.",
            Unit.COUNT,
        ),
    ),
    collapsed=True,
)

ENGINE = Dashboard(
    "patio-engine",
    "Patio / Engine",
    "The pods of one model, side by side, to find the one that differs. Choose one pod to see it alone.",
    PODS,
    (NOW, LOAD, LATENCY, CACHE, LIFE, SIDECAR, TOPOLOGY, CONTAINERS, GPUS),
)

"""Alerts about engines: down, stalled, slow, full, failing."""

from __future__ import annotations

from patio_observability.alerts.model import Alert, Group, Look, Runbook

POD = ("namespace", "pod")
MODEL = ("namespace", "model_name")

_DESCRIBE = Look(
    "kubectl describe pod POD -n NAMESPACE",
    "`State` and `Last State` of the engine's container, and the events: OOMKilled, an exit code, a failed probe, a "
    "node that is gone.",
)
_PREVIOUS = Look(
    "kubectl logs POD -n NAMESPACE -c ENGINE --previous --tail=100",
    "The last words of an engine that was restarted: out of GPU memory, a CUDA or NCCL error, a wrong flag.",
)
_PAGE = "curl -s localhost:9091/metrics"

ENGINES = Group(
    "engines",
    "Engines",
    (
        Alert(
            "PatioEngineDown",
            "critical",
            "5m",
            "(patio:engine_up == 0) and (max_over_time(patio:engine_up[1d]) == 1)",
            "An engine that was up does not answer",
            "The engine in pod {{ $labels.namespace }}/{{ $labels.pod }} does not answer for more than 5 minutes. It "
            "was up before.",
            "patio-engine",
            POD,
            Runbook(
                "The sidecar cannot read the engine's metrics, and could within the last day. The engine's process "
                "has ended, hangs, or does not listen.",
                "Requests to this pod fail or hang. Kubernetes sends new ones to other pods. With one pod, the model "
                "is gone.",
                (
                    _DESCRIBE,
                    _PREVIOUS,
                    Look(
                        f"{_PAGE} | grep patio:engine_scrape_errors_total",
                        "`connection`: nothing listens. `timeout`: the process hangs. `status`: it answers an error.",
                    ),
                ),
                (
                    "OOMKilled: raise the memory limit of the engine's container.",
                    "The process hangs: delete the pod. The drain ends at its timeout.",
                    "A GPU error (XID, NCCL): cordon the node, delete the pod, and have the node checked.",
                ),
                "An engine that is asleep still answers its metrics. A pod that is being removed has no series after "
                "a few minutes.",
            ),
        ),
        Alert(
            "PatioEngineNotStarted",
            "warning",
            "45m",
            "patio:engine_up == 0",
            "An engine has not been up for 45 minutes",
            "The engine in pod {{ $labels.namespace }}/{{ $labels.pod }} has not been up for 45 minutes.",
            "patio-engine",
            POD,
            Runbook(
                "The engine did not become ready, or is down for long. Loading a large model takes minutes, not 45.",
                "The pod gets no requests. A rollout waits for it.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c ENGINE --tail=100",
                        "What the engine does: it downloads the model, compiles kernels, waits for other pods, or "
                        "fails and starts again.",
                    ),
                    _DESCRIBE,
                    Look(
                        "curl -s localhost:9091/ready",
                        "`waiting_for` lists what the pod waits for, in the sidecar's words.",
                    ),
                ),
                (
                    "It restarts in a loop: correct the flag or the limit that the log names.",
                    "It downloads the model each time: put the model on a volume.",
                    "SGLang: add `--enable-metrics`, or the sidecar reads no metrics.",
                ),
                "A very large model from a slow disk. Silence the alert for that pod, or disable it by "
                "`monitoring.rules.disabled`.",
            ),
        ),
        Alert(
            "PatioModelGone",
            "critical",
            "5m",
            "count by (cluster, namespace, model_name) (patio:num_requests_running offset 15m)\n"
            "  unless count by (cluster, namespace, model_name) (patio:num_requests_running)",
            "No pod serves a model any more",
            "The model {{ $labels.model_name }} in {{ $labels.namespace }} had engines 15 minutes ago, and has none "
            "now.",
            "patio-fleet",
            MODEL,
            Runbook(
                "The series of a model that was served 15 minutes ago are gone: its pods were removed, or none of "
                "their engines answers.",
                "Every request for the model fails.",
                (
                    Look(
                        "kubectl get pods -n NAMESPACE -l patio.dev/injected=true",
                        "No pods: the workload was scaled to zero or deleted. Pods that are not ready: see "
                        "[PatioEngineDown](#patioenginedown). Ready pods: Prometheus does not scrape them.",
                    ),
                    Look(
                        "kubectl get events -n NAMESPACE --sort-by=.lastTimestamp | tail -30",
                        "Who removed the pods: a scaler, an eviction, a full node, a quota.",
                    ),
                ),
                (
                    "Scale the workload up again, or roll back the change that removed it.",
                    "The pods exist and are ready: see the targets in Prometheus and [Monitor](../tasks/monitor.md).",
                ),
                "The model was removed on purpose, renamed, or scaled to zero. Silence the alert for it, or inhibit "
                "it in Alertmanager for models that scale to zero. It ends by itself after 15 minutes.",
            ),
        ),
        Alert(
            "PatioEngineStalled",
            "critical",
            "5m",
            "sum by (cluster, namespace, pod, model_name) (\n"
            "  min_over_time(patio:num_requests_running[5m]) + min_over_time(patio:num_requests_waiting[5m])\n"
            ") > 0\n"
            "  unless (\n"
            # Apart, since a prefill or a decode worker may have only one of the two.
            "    sum by (cluster, namespace, pod, model_name) (rate(patio:output_tokens_total[5m])) > 0\n"
            "    or sum by (cluster, namespace, pod, model_name) (rate(patio:input_tokens_total[5m])) > 0\n"
            # Asleep, an engine keeps its queue on purpose.
            "    or max by (cluster, namespace, pod, model_name) "
            '(patio:engine_sleep_state{sleep_state!="awake"}) == 1\n'
            "  )",
            "An engine has requests and generates no token",
            "The engine in pod {{ $labels.namespace }}/{{ $labels.pod }} has {{ $value }} requests or more for 5 "
            "minutes, and processes no token of {{ $labels.model_name }}.",
            "patio-engine",
            POD,
            Runbook(
                "The engine answers its metrics and has requests, but neither input nor output tokens move. Its "
                "scheduler or a GPU hangs. The pod may still be ready.",
                "Requests hang until the client gives up. The Service still sends new ones.",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(num_requests|input_tokens|output_tokens)'",
                        "Call it twice: requests above zero and tokens that do not move are the stall.",
                    ),
                    Look(
                        "kubectl logs POD -n NAMESPACE -c ENGINE --since=15m | tail -100",
                        "NCCL timeouts, a worker that died, or no line at all for minutes.",
                    ),
                    Look(
                        "kubectl exec POD -n NAMESPACE -c ENGINE -- nvidia-smi",
                        "GPUs at 100 % without progress hang in a kernel; at 0 % the scheduler hangs.",
                    ),
                ),
                (
                    "Delete the pod. Running requests are lost; they would not have ended.",
                    "In a group with leader and workers, delete the leader: the workers are recreated with it.",
                    "It comes back on the same node: cordon the node.",
                ),
                "A profiler that is stopped in the engine. vLLM in sleep mode does not fire it.",
            ),
        ),
        Alert(
            "PatioQueueTimeHigh",
            "warning",
            "10m",
            "sum by (cluster, namespace, model_name) (rate(patio:request_queue_time_seconds_sum[10m]))\n"
            "  / (sum by (cluster, namespace, model_name) (rate(patio:request_queue_time_seconds_count[10m])) > 0)\n"
            "  > ${queueSeconds}",
            "Requests wait long before they run",
            "Requests for {{ $labels.model_name }} in {{ $labels.namespace }} wait {{ $value | humanizeDuration }} on "
            "average, more than ${queueSeconds} s.",
            "patio-fleet",
            MODEL,
            Runbook(
                "The pods of the model get more requests than they can run.",
                "The first token comes late. Clients with a short timeout give up.",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(num_requests|kv_cache_usage)'",
                        "Waiting on every pod: too few pods. On one pod only: uneven load. A full KV cache: long "
                        "prompts.",
                    ),
                ),
                (
                    "Add pods, or let a scaler do it: [Autoscale](../tasks/autoscale.md).",
                    "Uneven load: use a router that knows the queues.",
                    "Raise the batch (`--max-num-seqs`, `--max-running-requests`) if the KV cache has room.",
                ),
                "Batch jobs that fill the queue on purpose. Raise `queueSeconds`.",
            ),
        ),
        Alert(
            "PatioQueueLongerThanBatch",
            "warning",
            "15m",
            "sum by (cluster, namespace, model_name) (patio:num_requests_waiting)\n"
            "    > sum by (cluster, namespace, model_name) (patio:num_requests_running)\n"
            "  and sum by (cluster, namespace, model_name) (patio:num_requests_waiting) > ${queueLength}",
            "More requests wait than run",
            "{{ $value }} requests for {{ $labels.model_name }} in {{ $labels.namespace }} wait, more than run.",
            "patio-fleet",
            MODEL,
            Runbook(
                "For 15 minutes, more requests of the model have waited than all its pods run at a time.",
                "Each request waits for at least one other request to end.",
                (
                    Look(
                        "kubectl get pods -n NAMESPACE -l patio.dev/injected=true",
                        "Pods that are not ready, or fewer of them than the workload wants.",
                    ),
                    Look(
                        "kubectl get hpa,scaledobject -n NAMESPACE",
                        "A scaler at its maximum, or one that has no metric.",
                    ),
                ),
                (
                    "Add pods, or raise the scaler's maximum: [Autoscale](../tasks/autoscale.md).",
                    "Lower the load at the gateway until they are ready.",
                ),
                "Batch jobs that fill the queue on purpose. Raise `queueLength`.",
            ),
        ),
        Alert(
            "PatioKVCacheExhausted",
            "warning",
            "10m",
            "(max by (cluster, namespace, pod, model_name) (avg_over_time(patio:kv_cache_usage_ratio[10m])) > "
            "${kvCacheUsage})\n"
            "  and (max by (cluster, namespace, pod, model_name) (min_over_time(patio:num_requests_waiting[10m])) > 0)",
            "A KV cache is full, and requests wait for it",
            "The KV cache of pod {{ $labels.namespace }}/{{ $labels.pod }} is {{ $value | humanizePercentage }} full, "
            "and requests for {{ $labels.model_name }} wait.",
            "patio-engine",
            POD,
            Runbook(
                "The KV cache has been full for 10 minutes, and requests have always waited. A full cache alone "
                "is normal: engines keep old prefixes as long as there is room.",
                "Requests wait, and some begin again (preemption).",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(kv_cache|preemptions_total|num_requests)'",
                        "The size of the cache in tokens, beside running and waiting requests.",
                    ),
                ),
                (
                    "Add pods.",
                    "Lower the longest context (`--max-model-len`, `--context-length`) if requests do not need it.",
                    "Give the engine more GPU memory (`--gpu-memory-utilization`, `--mem-fraction-static`), or an "
                    "8-bit KV cache.",
                ),
            ),
        ),
        Alert(
            "PatioPreemptionsHigh",
            "warning",
            "15m",
            "sum by (cluster, namespace, pod, model_name) (rate(patio:preemptions_total[10m]))\n"
            "  / (sum by (cluster, namespace, pod, model_name) (rate(patio:requests_finished_total[10m])) > 0)\n"
            "  > ${preemptionsPerRequest}",
            "An engine puts requests back into the queue",
            "Pod {{ $labels.namespace }}/{{ $labels.pod }} has {{ $value | humanize }} preemptions for each finished "
            "request of {{ $labels.model_name }}.",
            "patio-engine",
            POD,
            Runbook(
                "The engine takes more requests into its batch than fit in the KV cache, and puts some of them back. "
                "Their work is done again.",
                "Answers stop for seconds in the middle.",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(kv_cache|preemptions_total|num_requests)'",
                        "A full cache beside many running requests.",
                    ),
                ),
                (
                    "Lower the batch (`--max-num-seqs`, `--max-running-requests`).",
                    "Add pods, or give the engine more GPU memory.",
                ),
            ),
        ),
        Alert(
            "PatioTimeToFirstTokenSLO",
            "warning",
            "10m",
            "1 - sum by (cluster, namespace, model_name) (\n"
            '      rate(patio:time_to_first_token_seconds_bucket{le=~"${timeToFirstTokenSeconds}(\\\\.0)?"}[30m])\n'
            "    )\n"
            "    / (sum by (cluster, namespace, model_name) (rate(patio:time_to_first_token_seconds_count[30m])) > 0)\n"
            "    > ${timeToFirstTokenMissed}\n"
            "  and sum by (cluster, namespace, model_name) (rate(patio:time_to_first_token_seconds_count[30m]))\n"
            "    > ${minimumRequestRate}",
            "The first token takes too long",
            "{{ $value | humanizePercentage }} of the requests for {{ $labels.model_name }} in {{ $labels.namespace "
            "}} wait longer than ${timeToFirstTokenSeconds} s for their first token.",
            "patio-fleet",
            MODEL,
            Runbook(
                "More requests than the objective allows get their first token late. The time contains queue and "
                "prefill.",
                "Answers begin late.",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(num_requests_waiting|request_queue_time_seconds_(sum|count))'",
                        "A long queue: too few pods. A short queue: prefill is slow, since prompts are long or not "
                        "cached.",
                    ),
                ),
                (
                    "Queue: add pods, see [PatioQueueTimeHigh](#patioqueuetimehigh).",
                    "Prefill: turn prefix caching on, send requests of one prompt to one pod, or separate prefill "
                    "from decode.",
                ),
                "A model with very long prompts. Raise `timeToFirstTokenSeconds` to the next bound that both engines "
                "have.",
            ),
        ),
        Alert(
            "PatioTimePerOutputTokenSLO",
            "warning",
            "10m",
            "1 - sum by (cluster, namespace, model_name) (\n"
            '      rate(patio:time_per_output_token_seconds_bucket{le=~"${timePerOutputTokenSeconds}(\\\\.0)?"}[30m])\n'
            "    )\n"
            "    / (sum by (cluster, namespace, model_name) (rate(patio:time_per_output_token_seconds_count[30m])) > "
            "0)\n"
            "    > ${timePerOutputTokenMissed}\n"
            "  and sum by (cluster, namespace, model_name) (rate(patio:time_per_output_token_seconds_count[30m]))\n"
            "    > ${minimumRequestRate}",
            "Tokens come too slowly",
            "{{ $value | humanizePercentage }} of the requests for {{ $labels.model_name }} in {{ $labels.namespace "
            "}} take longer than ${timePerOutputTokenSeconds} s for each token.",
            "patio-fleet",
            MODEL,
            Runbook(
                "More requests than the objective allows get their tokens slowly. Each step of the engine takes long.",
                "Answers crawl.",
                (
                    Look(
                        f"{_PAGE} | grep -E '^patio:(num_requests_running|preemptions_total|kv_cache_usage)'",
                        "Many running requests: the batch is large. Preemptions: the KV cache is too small.",
                    ),
                    Look(
                        "kubectl top pod POD -n NAMESPACE --containers",
                        "An engine at its CPU limit is throttled between the steps.",
                    ),
                ),
                (
                    "All pods: add pods, or lower the batch.",
                    "One pod: cordon its node and delete the pod; have the GPU checked (clock, temperature).",
                ),
            ),
        ),
        Alert(
            "PatioRequestsFail",
            "warning",
            "10m",
            "(\n"
            "  (sum by (cluster, namespace, model_name) (rate(patio:request_errors_total[5m]))\n"
            "    or 0 * sum by (cluster, namespace, model_name) (rate(patio:requests_finished_total[5m])))\n"
            "  + (sum by (cluster, namespace, model_name) "
            '(rate(patio:requests_finished_total{finished_reason="error"}[5m]))\n'
            "    or 0 * sum by (cluster, namespace, model_name) (rate(patio:requests_finished_total[5m])))\n"
            ") / (sum by (cluster, namespace, model_name) (rate(patio:requests_finished_total[5m])) > 0)\n"
            "  > ${failedRequests}\n"
            "  and sum by (cluster, namespace, model_name) (rate(patio:requests_finished_total[5m])) > "
            "${minimumRequestRate}",
            "Requests fail",
            "{{ $value | humanizePercentage }} of the requests for {{ $labels.model_name }} in {{ $labels.namespace "
            "}} fail.",
            "patio-fleet",
            MODEL,
            Runbook(
                "The engine rejects requests at admission (vLLM), ends them by an error (vLLM), or they were aborted "
                "(SGLang).",
                "Errors instead of answers.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c ENGINE --since=15m | grep -iE 'error|abort|reject' | tail "
                        "-50",
                        "What fails: full queues, requests that are too long, or exceptions.",
                    ),
                    Look(
                        f"{_PAGE} | grep -E '^patio:(request_errors|requests_finished)_total'",
                        "Which counter grows, and for which reason.",
                    ),
                ),
                (
                    "The queues are full, so the engine rejects requests: add pods.",
                    "Exceptions: roll back the last change of the engine, the model or an adapter.",
                ),
                "On SGLang most aborts are clients that hang up: look at the clients' timeouts. Raise "
                "`failedRequests`.",
            ),
        ),
        Alert(
            "PatioServerErrors",
            "warning",
            "10m",
            # A pod may be scraped twice, and then has two series of its model.
            "sum by (cluster, namespace, model_name) (\n"
            '  rate(patio:http_responses_total{class="5xx"}[5m])\n'
            "    * on (cluster, namespace, pod) group_left (model_name)\n"
            "    max by (cluster, namespace, pod, model_name) (patio:engine_info)\n"
            ") / (sum by (cluster, namespace, model_name) (\n"
            "  rate(patio:http_responses_total[5m])\n"
            "    * on (cluster, namespace, pod) group_left (model_name)\n"
            "    max by (cluster, namespace, pod, model_name) (patio:engine_info)\n"
            ") > 0)\n"
            "  > ${serverErrors}\n"
            "  and sum by (cluster, namespace, model_name) (\n"
            "    rate(patio:http_responses_total[5m])\n"
            "      * on (cluster, namespace, pod) group_left (model_name)\n"
            "      max by (cluster, namespace, pod, model_name) (patio:engine_info)\n"
            "  ) > ${minimumRequestRate}",
            "Engines answer with server errors",
            "{{ $value | humanizePercentage }} of the responses of {{ $labels.model_name }} in {{ $labels.namespace }} "
            "have a status of 500 or more.",
            "patio-fleet",
            MODEL,
            Runbook(
                "The HTTP servers of the engines answer with 5xx. Requests of probes, sidecars and Prometheus are not "
                "counted.",
                "Errors instead of answers.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c ENGINE --since=15m | grep -E ' 5[0-9][0-9]|Traceback' | tail "
                        "-50",
                        "Which route fails, and the exception.",
                    ),
                    Look(
                        f"{_PAGE} | grep -E '^patio:(http_responses_total|requests_finished_total)'",
                        "Whether this pod has them, and how many of its responses they are.",
                    ),
                ),
                (
                    "503 on all pods: the engines are overloaded or restart. Add pods.",
                    "500 on one pod: delete it. On all: roll back the last change of the engine, the model or an "
                    "adapter.",
                ),
            ),
        ),
        Alert(
            "PatioDrainCut",
            "warning",
            "0m",
            'sum by (cluster, namespace, pod) (\n  increase(patio:drains_total{outcome="requests"}[15m])\n) > 0',
            "A pod was stopped before its last request ended",
            "The drain of pod {{ $labels.namespace }}/{{ $labels.pod }} was over while its engine had requests.",
            "patio-engine",
            POD,
            Runbook(
                "The time of a drain was over, and the engine still had requests, or had some a moment before. The "
                "kubelet stops the engine then. Prometheus sees it only if it scrapes the pod between the drain's end "
                "and the pod's, so no alert does not mean that no request was cut.",
                "vLLM aborts these requests. SGLang finishes them if the grace period allows it.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=1h | grep 'drain '",
                        "When the drain began, for how many seconds, and whether it ended. A pod that is gone has no "
                        "log here: look where your logs are collected.",
                    ),
                    Look(
                        "kubectl get pod POD -n NAMESPACE -o jsonpath='{.spec.terminationGracePeriodSeconds}'",
                        "The drain has three quarters of it or more: [Drain](../concepts/drain.md).",
                    ),
                ),
                (
                    "Raise `terminationGracePeriodSeconds` above the longest answer.",
                    "Limit the length of answers (`max_tokens`).",
                    "A router that sends requests to a pod that leaves: see [PatioNotRegistered]"
                    "(adapters.md#pationotregistered).",
                ),
                "A script that calls the drain with a short timeout again and again.",
            ),
        ),
        Alert(
            "PatioScrapesFail",
            "warning",
            "15m",
            "sum by (cluster, namespace, pod, reason) (\n"
            '  increase(patio:engine_scrape_errors_total{reason!~"connection|busy"}[15m])\n'
            ") > ${scrapeErrors}",
            "The sidecar cannot read an engine's metrics",
            "{{ $value | humanize }} scrapes of the engine in pod {{ $labels.namespace }}/{{ $labels.pod }} failed in "
            "15 minutes: {{ $labels.reason }}.",
            "patio-engine",
            POD,
            Runbook(
                "The engine listens, but its metrics cannot be read: `timeout`, `broken`, `status`, `garbage` or "
                "`too_large`.",
                "Nothing. Dashboards and scalers have gaps.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=30m | grep scraped",
                        "The reason in words, with the status or the size.",
                    ),
                    Look(
                        "kubectl exec POD -n NAMESPACE -c ENGINE -- curl -s -o /dev/null -w '%{http_code} "
                        "%{time_total}\\n' "
                        "localhost:8000/metrics",
                        "How long the engine needs itself, and its status. SGLang listens on another port.",
                    ),
                ),
                (
                    "`timeout`: the engine's process has too little CPU; raise its request. Or raise `scrapeTimeout`.",
                    "`too_large`: something else writes metrics into the engine's page: turn it off.",
                    "`status`: start the engine with metrics (SGLang: `--enable-metrics`).",
                ),
            ),
        ),
    ),
)

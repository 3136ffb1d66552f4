"""Alerts about adapters, their downloads, registration with routers, and calls to sidecars."""

from __future__ import annotations

from patio_observability.alerts.model import Alert, Group, Look, Runbook

POD = ("namespace", "pod")
ADAPTER = ("namespace", "adapter")

_DESCRIBE = Look(
    "kubectl describe lora ADAPTER -n NAMESPACE",
    "The condition Ready has the reason and the engine's own words, `instances` the pods. The alert has the name in "
    "requests: an object with `spec.adapterName` has another name, see `kubectl get lora -n NAMESPACE`.",
)
_REASONS = "[Reasons and events](../reference/reasons.md) says what to do for each reason."

ADAPTERS = Group(
    "adapters",
    "Adapters and sidecars",
    (
        Alert(
            "PatioAdapterNowhere",
            "critical",
            "15m",
            'count by (cluster, namespace, adapter) (patio:lora_adapter_state{state!="Unloading"})\n'
            '  unless count by (cluster, namespace, adapter) (patio:lora_adapter_state{state="Loaded"} == 1)',
            "An adapter is loaded on no pod",
            "The adapter {{ $labels.adapter }} in {{ $labels.namespace }} should be on {{ $value }} pods, and is "
            "loaded on none.",
            "patio-adapters",
            ADAPTER,
            Runbook(
                "Pods should have the adapter, and none of their engines has listed it for 15 minutes.",
                "Every request for the adapter fails: the engine says that the model does not exist.",
                (
                    _DESCRIBE,
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=30m | grep adapter=ADAPTER",
                        "Each load, download and rejection of one pod.",
                    ),
                ),
                (
                    _REASONS,
                    "A new revision is broken: set the previous source again. Pods that still have the old weights "
                    "keep them.",
                ),
                "A new adapter with a very large download.",
            ),
        ),
        Alert(
            "PatioAdapterFailed",
            "warning",
            "15m",
            'count by (cluster, namespace, adapter) (patio:lora_adapter_state{state="Failed"} == 1) > 0',
            "An adapter failed on some pods",
            "The adapter {{ $labels.adapter }} failed on {{ $value }} pods in {{ $labels.namespace }}.",
            "patio-adapters",
            ADAPTER,
            Runbook(
                "The engine rejects the adapter: the rank is too high, files are missing, or the adapter belongs to "
                "another base model. Or SGLang evicted it, or six attempts in a row to fetch or load it failed. The "
                "sidecar tries again every five minutes or sooner.",
                "Requests for the adapter fail on these pods.",
                (_DESCRIBE,),
                (
                    _REASONS,
                    "Rank too high: raise `--max-lora-rank` of the engine, or train with a lower rank.",
                    "Wrong base model: correct `baseModel` or the selector.",
                ),
            ),
        ),
        Alert(
            "PatioAdapterStuck",
            "warning",
            "30m",
            "count by (cluster, namespace, adapter, state) (\n"
            '  patio:lora_adapter_state{state=~"Pending|Downloading|Loading|Unloading"} == 1\n'
            ") > 0",
            "An adapter stays in one state",
            "The adapter {{ $labels.adapter }} in {{ $labels.namespace }} has been {{ $labels.state }} on "
            "{{ $value }} pods for 30 minutes.",
            "patio-adapters",
            ADAPTER,
            Runbook(
                "The adapter has been in one state on some pod for half an hour. Pending: it waits for the engine, for "
                "a free slot, for credentials, or for a retry. Downloading: the source is slow or does not answer.",
                "Requests for the adapter fail on these pods, or go to others.",
                (
                    _DESCRIBE,
                    Look(
                        "curl -s localhost:9091/v1/downloads",
                        "Downloads of one pod: bytes so far, and the last error.",
                    ),
                ),
                (
                    _REASONS,
                    "No free slot: raise the engine's limit, unload adapters, or pin what matters.",
                    "The source is slow: see [PatioDownloadsFail](#patiodownloadsfail).",
                ),
                "A download of many gigabytes. A rollout over many pods, which change one after the other.",
            ),
        ),
        Alert(
            "PatioAdaptersThrash",
            "warning",
            "15m",
            "sum by (cluster, namespace, pod) (\n"
            '  increase(patio:lora_operations_total{operation=~"load|reload"}[30m])\n'
            ") > ${loadsPerAdapter} * count by (cluster, namespace, pod) (patio:lora_adapter_state)",
            "Adapters evict each other",
            "Pod {{ $labels.namespace }}/{{ $labels.pod }} loaded adapters {{ $value | humanize }} times in 30 "
            "minutes, more than ${loadsPerAdapter} times for each.",
            "patio-adapters",
            POD,
            Runbook(
                "The pod loads the same adapters again and again: more are desired than fit, so that they evict each "
                "other, or an engine forgets them.",
                "Requests for adapters sometimes fail. The engine is slow while it loads.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=30m | grep -E 'adapter (evicted|lost|loaded)'",
                        "Which adapter evicts which, or which restart of the engine lost them.",
                    ),
                    Look(
                        "kubectl get lora -n NAMESPACE",
                        "How many adapters are desired, and how many are ready.",
                    ),
                ),
                (
                    "Raise the engine's limit (`--max-loras`, `--max-cpu-loras`, `--max-loaded-loras`).",
                    "Spread adapters over pods by selectors or `replicas`, or pin those that matter.",
                    "If a script loads adapters past Patio, stop it.",
                ),
            ),
        ),
        Alert(
            "PatioDownloadsFail",
            "warning",
            "10m",
            "sum by (cluster, namespace, source, reason) (increase(patio:download_failures_total[30m])) > "
            "${downloadFailures}",
            "Downloads fail",
            "{{ $value | humanize }} attempts to download from {{ $labels.source }} in {{ $labels.namespace }} failed "
            "in 30 minutes: {{ $labels.reason }}.",
            "patio-adapters",
            ("namespace",),
            Runbook(
                "Sidecars cannot fetch from a source. They try again with growing pauses.",
                "New adapters and new pods are late. Loaded adapters stay loaded.",
                (
                    Look(
                        "kubectl logs -n NAMESPACE -l patio.dev/injected=true -c patio --since=30m --tail=-1 --prefix "
                        "| grep -E 'download (failed|retries)'",
                        "The source's answer: status, host, file.",
                    ),
                ),
                (
                    "Credentials: renew the Secret. Running downloads take the new one at the next attempt.",
                    "Network: check proxy, CA and NetworkPolicy: [Downloads](../concepts/downloads.md).",
                    "No space: raise `sidecar.downloadLimit` or the disk, or remove adapters.",
                ),
            ),
        ),
        Alert(
            "PatioDiskAlmostFull",
            "warning",
            "15m",
            # Files that no adapter uses are removed when a download needs their room: they do not count.
            "(\n"
            '  max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="limit"})\n'
            '  - max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="held"})\n'
            ') / (max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="limit"}) > 0) < ${downloadRoom}\n'
            "or (\n"
            '  max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="free"})\n'
            '  + max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="used"})\n'
            '  - max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="held"})\n'
            ') / (max by (cluster, namespace, pod) (patio:download_disk_bytes{kind="limit"}) > 0) < ${downloadRoom}',
            "The disk of downloads is almost full",
            "Pod {{ $labels.namespace }}/{{ $labels.pod }} has room for {{ $value | humanizePercentage }} of what its "
            "downloads may take.",
            "patio-adapters",
            POD,
            Runbook(
                "The adapters that the pod uses take nearly all that downloads may have, or others fill the disk. "
                "Files that no adapter of the pod uses count as room, since the sidecar removes them.",
                "The next new adapter, or new revision, fails with `NoSpace`. Loaded adapters stay loaded.",
                (
                    Look(
                        "curl -s localhost:9091/metrics | grep patio:download_disk_bytes",
                        "`held` near `limit`: too many adapters. `free` small and `used` small: others fill the disk.",
                    ),
                    Look(
                        "kubectl exec POD -n NAMESPACE -c ENGINE -- df -h /var/lib/patio-adapters",
                        "The file system, and whether it is the node's (an emptyDir) or a volume.",
                    ),
                ),
                (
                    "Raise `sidecar.downloadLimit` or the size of the volume.",
                    "Remove adapters, or spread them over more pods.",
                    "On a volume that pods share, adapters of other pods are not counted as held: remove theirs.",
                ),
                "A node whose disk is nearly full all the time. Set `sidecar.downloadLimit`, or lower `downloadRoom`.",
            ),
        ),
        Alert(
            "PatioNotRegistered",
            "critical",
            "5m",
            "(patio:topology_registered == 0) and on (cluster, namespace, pod) (patio:engine_up == 1)\n"
            "  unless on (cluster, namespace, pod) (patio:draining == 1)",
            "A router does not list an engine that is up",
            "The router {{ $labels.router }} does not list the engine in pod {{ $labels.namespace }}/{{ $labels.pod "
            "}}.",
            "patio-engine",
            POD,
            Runbook(
                "The engine answers, and the router has not listed it as healthy for 5 minutes.",
                "The pod gets no requests from this router; the other pods get more.",
                (
                    Look(
                        "curl -s localhost:9091/v1/topology",
                        "State, reason and message of each registration.",
                    ),
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=15m | grep router=",
                        "What the router answered.",
                    ),
                ),
                (
                    "The router does not answer, or restarts: look at its pod. Sidecars register again by themselves.",
                    "The router's health check of the worker fails: the engine's port is closed to it, or its key is "
                    "wrong.",
                    "[Registration with a router](../reference/reasons.md#registration-with-a-router) says what each "
                    "reason means.",
                ),
            ),
        ),
        Alert(
            "PatioCallsRejected",
            "warning",
            "5m",
            "sum by (cluster, namespace, pod, code) (increase(patio:access_denials_total[15m])) > ${rejectedCalls}",
            "A sidecar rejects calls",
            "The sidecar in pod {{ $labels.namespace }}/{{ $labels.pod }} rejected {{ $value | humanize }} calls in "
            "15 minutes: {{ $labels.code }}.",
            "patio-engine",
            POD,
            Runbook(
                "Calls reach the sidecar without a valid proof. With `UnknownKey` it is the operator: the pod does "
                "not trust its key. With other codes it is a person, a script or an attacker.",
                "With `UnknownKey`, adapters of this pod stay as they are. With other codes, users notice nothing.",
                (
                    Look(
                        "kubectl logs POD -n NAMESPACE -c patio --since=15m | grep code=",
                        "The code, the route and the address of the caller.",
                    ),
                ),
                (
                    "`UnknownKey`, or `ProofMissing` on old pods: recreate the pods: [Pods that an older operator "
                    "injected](../concepts/access.md#pods-that-an-older-operator-injected).",
                    "`ProofExpired` and the like on many pods: a clock is wrong; compare the clocks of the nodes.",
                    "Calls from an address that is not the operator's: close port 9091 by a NetworkPolicy: "
                    "[Harden](../tasks/harden.md#networkpolicy).",
                ),
            ),
        ),
    ),
)

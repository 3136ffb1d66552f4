"""Alerts about the operator: absent, not leading, failing or slow admission, failing reconcilers."""

from __future__ import annotations

from patio_observability.alerts.model import Alert, Group, Look, Runbook

_PODS = Look(
    "kubectl get pods,lease -n patio-system -o wide",
    "Pods that are missing, not ready or restarting, and who holds the Lease patio-operator.",
)
_ERRORS = Look(
    "kubectl logs -n patio-system -l app.kubernetes.io/component=operator --since=15m --tail=-1 --prefix "
    "| grep '\"ERROR\"'",
    "One line for each error, with object and cause.",
)

OPERATOR = Group(
    "operator",
    "Operator",
    (
        Alert(
            "PatioOperatorAbsent",
            "critical",
            "5m",
            "absent(patio_operator_leader)",
            "The operator is gone",
            "Prometheus has had no metrics of Patio's operator for 5 minutes.",
            "patio-operator",
            (),
            Runbook(
                "No replica of the operator runs, or Prometheus does not scrape it.",
                "Running pods keep running. New pods that ask for a profile are not created "
                "(`webhook.failurePolicy=Fail`). Adapters and groups do not change.",
                (
                    _PODS,
                    Look(
                        "kubectl describe deployment,replicaset -n patio-system",
                        "Why pods are not created: a quota, a policy, a missing image.",
                    ),
                ),
                (
                    "Fix what keeps the pods from running: image, quota, node, limits.",
                    "The pods are ready, so the scrape fails: check the targets in Prometheus, the port 8080 and "
                    "NetworkPolicies.",
                    "If pods must be created before the operator is back, set `webhook.failurePolicy=Ignore` until "
                    "then. Such pods have no sidecar: recreate them later.",
                ),
                "Prometheus scrapes the sidecars and not the operator: turn `monitoring.serviceMonitor` on, or "
                "disable the alert.",
            ),
        ),
        Alert(
            "PatioOperatorLeaders",
            "critical",
            "2m",
            "sum by (cluster, namespace) (patio_operator_leader) != 1",
            "Not exactly one replica of the operator leads",
            "{{ $value }} replicas of the operator in {{ $labels.namespace }} lead.",
            "patio-operator",
            (),
            Runbook(
                "If no replica leads, none reconciles. If two lead, the old leader hangs and has not noticed that it "
                "lost the Lease.",
                "Admission still works. Adapters and groups do not change, or two replicas change them.",
                (
                    Look(
                        "kubectl get lease patio-operator -n patio-system -o yaml",
                        "`holderIdentity` is the leader, and `renewTime` is when it last renewed the Lease.",
                    ),
                    _ERRORS,
                ),
                (
                    "The holder is gone: wait 15 seconds; the Lease expires.",
                    "The pods run and do not renew the Lease: the API server does not answer them. Check the "
                    "operator's rights, the network and the API server's load.",
                    "Two leaders: delete the pod that is not the holder.",
                ),
            ),
        ),
        Alert(
            "PatioAdmissionsFail",
            "critical",
            "5m",
            'sum by (cluster, namespace) (rate(patio_operator_admissions_total{outcome="error"}[5m])) > 0',
            "The webhook cannot review pods",
            "Reviews of pods in the operator of {{ $labels.namespace }} end with errors.",
            "patio-operator",
            (),
            Runbook(
                "The webhook answers errors. With `webhook.failurePolicy=Fail` the API server then rejects the pods.",
                "Pods that ask for a profile are not created: rollouts and autoscalers make no progress.",
                (_ERRORS, _PODS),
                (
                    "The API server does not answer the operator: check the API server's load and the operator's "
                    "rights.",
                    "It began with an upgrade: `helm rollback`.",
                    "If pods must be created before that works, set `webhook.failurePolicy=Ignore` until then.",
                ),
            ),
        ),
        Alert(
            "PatioAdmissionsRejected",
            "warning",
            "15m",
            "sum by (cluster, namespace) (\n"
            '  increase(patio_operator_admissions_total{outcome!~"allowed|error"}[15m])\n'
            ") > ${rejectedAdmissions}",
            "The webhook rejects pods",
            "The operator in {{ $labels.namespace }} rejected {{ $value | humanize }} pods in 15 minutes.",
            "patio-operator",
            (),
            Runbook(
                "Pods ask for a profile that cannot be injected: it does not exist, or it and the pod contradict each "
                "other.",
                "These pods are not created. Their workload tries again and again.",
                (
                    Look(
                        "kubectl get events -A --field-selector reason=FailedCreate",
                        "The sentence of each rejection, at the ReplicaSet, StatefulSet or Job.",
                    ),
                ),
                (
                    "[When injection is not possible](../concepts/profile.md#when-injection-is-not-possible) explains "
                    "each sentence.",
                ),
            ),
        ),
        Alert(
            "PatioAdmissionsSlow",
            "warning",
            "10m",
            "histogram_quantile(0.99,\n"
            "  sum by (cluster, namespace, le) (rate(patio_operator_admission_duration_seconds_bucket[10m]))\n"
            ") > ${admissionSeconds}",
            "Reviews of pods are slow",
            "1 % of the reviews of pods take longer than {{ $value | humanizeDuration }}.",
            "patio-operator",
            (),
            Runbook(
                "Reviews take milliseconds. Slow ones wait for the API server, or the operator has too little CPU.",
                "Pods are created late. Above `webhook.timeoutSeconds` they are rejected.",
                (
                    Look(
                        "kubectl top pods -n patio-system --containers",
                        "CPU near the limit, or near a whole core.",
                    ),
                    _ERRORS,
                ),
                (
                    "Raise `operator.resources`, or `operator.replicas`: every replica reviews pods.",
                    "The API server is slow for everyone: that is the cause.",
                ),
            ),
        ),
        Alert(
            "PatioReviewsFail",
            "warning",
            "5m",
            'sum by (cluster, namespace, kind) (rate(patio_operator_reviews_total{outcome="error"}[5m])) > 0',
            "Checks or conversions of objects fail",
            "Reviews of {{ $labels.kind }} in the operator of {{ $labels.namespace }} end with errors.",
            "patio-operator",
            (),
            Runbook(
                "The operator cannot check a profile or a LoraAdapter, or cannot convert a RoleBasedGroup between its "
                "versions.",
                "Conversions: `kubectl get rbg` in the other version fails. Checks: objects are stored unchecked.",
                (_ERRORS, _PODS),
                (
                    "It began with an upgrade: `helm rollback`.",
                    "One object only: the log names it. Keep it as a file, and report it.",
                ),
            ),
        ),
        Alert(
            "PatioReconcilesFail",
            "warning",
            "15m",
            'sum by (cluster, namespace, kind) (rate(patio_operator_reconciles_total{outcome="error"}[15m]))\n'
            "  / (sum by (cluster, namespace, kind) (rate(patio_operator_reconciles_total[15m])) > 0)\n"
            "  > ${failedPasses}",
            "A reconciler fails",
            "{{ $value | humanizePercentage }} of the passes for {{ $labels.kind }} fail.",
            "patio-operator",
            (),
            Runbook(
                "Passes of a reconciler end with errors. The operator repeats them with growing pauses.",
                "Changes of these objects have no effect, or a late one. Running pods and loaded adapters stay as "
                "they are.",
                (_ERRORS,),
                (
                    "403: the operator's rights do not fit its mode: `helm upgrade` with the values that you mean.",
                    "409 and 5xx for long: the API server or another controller that writes the same fields.",
                    "Others: the log has the traceback. Report it.",
                ),
            ),
        ),
    ),
)

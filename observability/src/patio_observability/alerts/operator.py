"""Alerts about the operator: absent, not leading, failing or slow admission, failing reconcilers, and what it knows of
objects, sidecars and its certificate."""

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
                    "The pods are ready, so the scrape fails: check the targets in Prometheus, the port 8080 (8443 "
                    "with `operator.metrics.secure`) and NetworkPolicies.",
                    "The target answers 401 or 403: its token or its role is missing. See "
                    "[Harden](../tasks/harden.md#the-operators-metrics).",
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
            "sum by (cluster, namespace) (\n"
            '  rate(patio_operator_admissions_total{webhook="pods", outcome="error"}[5m])\n'
            ") > 0",
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
            '  increase(patio_operator_admissions_total{webhook="pods", outcome="rejected"}[15m])\n'
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
            "  sum by (cluster, namespace, le) (\n"
            '    rate(patio_operator_admission_duration_seconds_bucket{webhook="pods"}[10m])\n'
            "  )\n"
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
            "sum by (cluster, namespace, webhook) (\n"
            '  rate(patio_operator_admissions_total{webhook!="pods", outcome="error"}[5m])\n'
            ") > 0",
            "Checks or conversions of objects fail",
            "Reviews by the webhook {{ $labels.webhook }} of the operator in {{ $labels.namespace }} end with errors.",
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
        Alert(
            "PatioReconcileStuck",
            "warning",
            "5m",
            "max by (cluster, namespace, kind) (patio_operator_queue_oldest_seconds) > ${dueSeconds}",
            "An object has had no successful pass of its reconciler",
            "A {{ $labels.kind }} has been due for {{ $value | humanizeDuration }}, and no pass over it succeeded.",
            "patio-operator",
            (),
            Runbook(
                "Passes over one object or more fail again and again, hang, or get no worker.",
                "Changes of these objects have no effect. Running pods and loaded adapters stay as they are.",
                (
                    Look(
                        "kubectl logs -n patio-system -l app.kubernetes.io/component=operator --since=15m --tail=-1 "
                        "| grep 'failed, retrying'",
                        "Kind and name of each object whose passes fail, and the cause. No line: passes hang or wait.",
                    ),
                    _PODS,
                ),
                (
                    "The API server rejects something of the object: correct the object. Its condition has the words.",
                    "No pass fails, and many objects wait: raise `operator.resources`; the API server may be slow.",
                    "Nothing happens at all: delete the leader's pod. Another replica takes over.",
                ),
                "A RoleBasedGroup with the reason `Rejected` is tried again until someone corrects it.",
            ),
        ),
        Alert(
            "PatioWatchLost",
            "warning",
            "10m",
            "min by (cluster, namespace, resource) (patio_operator_watch_synced) == 0",
            "The operator does not see changes of a resource",
            "The operator in {{ $labels.namespace }} has had no watch of {{ $labels.resource }} for 10 minutes.",
            "patio-operator",
            (),
            Runbook(
                "A watch of the API server was lost, and each attempt to begin it again fails.",
                "The leader plans nothing with what may be old: it waits, and no pass counts as failed. Running pods "
                "and loaded adapters stay as they are.",
                (
                    Look(
                        "kubectl logs -n patio-system -l app.kubernetes.io/component=operator --since=15m --tail=-1 "
                        "| grep 'watch of'",
                        "Why the watch fails, in the words of the API server.",
                    ),
                    _PODS,
                ),
                (
                    "403: the operator's rights do not fit its values: `helm upgrade` with the values that you mean.",
                    "404: a CRD is missing: `helm upgrade` installs it.",
                    "No answer: check the API server's load, and the network between it and the operator.",
                ),
            ),
        ),
        Alert(
            "PatioAdapterNotReady",
            "warning",
            "30m",
            "max by (cluster, namespace, object_namespace, object_name) (patio_operator_loraadapter_ready) == 0\n"
            "  and max by (cluster, namespace, object_namespace, object_name) (\n"
            "    patio_operator_loraadapter_desired_pods\n"
            "  ) > 0",
            "A LoraAdapter is not Ready",
            "The LoraAdapter {{ $labels.object_name }} in {{ $labels.object_namespace }} has not been Ready for 30 "
            "minutes.",
            "patio-operator",
            (),
            Runbook(
                "Some pods that should have the adapter do not serve its current source.",
                "Requests for the adapter fail on these pods, or get the previous weights.",
                (
                    Look(
                        "kubectl get loraadapters -A -o wide",
                        "Which LoraAdapters are not Ready, with the reason and how many pods have each.",
                    ),
                    Look(
                        "kubectl describe loraadapter -A",
                        "The message of Ready names a pod and what it waits for, in the words of engine or source.",
                    ),
                ),
                (
                    "[Reasons](../reference/reasons.md) says what to do about each reason.",
                    "The reason names a pod: [PatioAdapterFailed](adapters.md#patioadapterfailed) and "
                    "[PatioAdapterStuck](adapters.md#patioadapterstuck) go on there.",
                ),
                "`NotEnoughPods` is meant for a while: lower `replicas`, or disable the alert.",
            ),
        ),
        Alert(
            "PatioGroupNotReady",
            "warning",
            "45m",
            "max by (cluster, namespace, object_namespace, object_name) (patio_operator_rolebasedgroup_ready) == 0",
            "A RoleBasedGroup is not Ready",
            "The RoleBasedGroup {{ $labels.object_name }} in {{ $labels.object_namespace }} has not been Ready for 45 "
            "minutes.",
            "patio-operator",
            (),
            Runbook(
                "A role does not have all its replicas, or the operator can do nothing with the group as it is.",
                "The model has fewer engines than the group asks for, or none.",
                (
                    Look(
                        "kubectl get rolebasedgroups -A -o wide",
                        "Which groups are not Ready. `kubectl describe` has the message, which names roles and pods.",
                    ),
                    Look(
                        "kubectl get pods -A -l rbg.workloads.x-k8s.io/group-name --field-selector "
                        "status.phase!=Running",
                        "Pods of groups that do not run.",
                    ),
                ),
                (
                    "`RoleNotReady`: the message has what keeps the first pod from running.",
                    "Another reason: [Reasons](../reference/reasons.md) says what to correct in the group.",
                ),
                "Models that load for longer than 45 minutes: disable the alert, or keep more replicas while you roll.",
            ),
        ),
        Alert(
            "PatioRolloutStopped",
            "warning",
            "10m",
            'max by (cluster, namespace, object_name) (patio_operator_profile_rolled_out{reason="Stopped"}) == 0',
            "The rollout of a profile has stopped",
            "A workload did not become ready with the current revision of the profile {{ $labels.object_name }}.",
            "patio-operator",
            (),
            Runbook(
                "The operator rolled a workload because its profile changed, and the workload did not become ready. It "
                "rolls no other one.",
                "The pods of that workload may be down. All others run with the older revision.",
                (
                    Look(
                        "kubectl get clusterengineruntimeprofiles -o custom-columns="
                        "NAME:.metadata.name,BEHIND:.status.behindPods,ERROR:.status.lastError",
                        "The workload that did not become ready, with the words of its controller.",
                    ),
                ),
                (
                    "The profile is wrong: correct it, or set it back. The rollout goes on with that workload.",
                    "The workload has a fault of its own: repair it. The rollout goes on when it is ready.",
                ),
            ),
        ),
        Alert(
            "PatioSidecarsUnreachable",
            "warning",
            "10m",
            'sum by (cluster, namespace) (patio_operator_sidecars{state=~"unreachable|rejecting"})\n'
            "  / (sum by (cluster, namespace) (patio_operator_sidecars) > 0) > ${unreachableSidecars}",
            "The operator does not reach sidecars",
            "{{ $value | humanizePercentage }} of the sidecars do not answer the operator in {{ $labels.namespace }}.",
            "patio-operator",
            (),
            Runbook(
                "The leader gets no answer from these sidecars, or one that is not a sidecar's.",
                "Engines go on. No adapter is loaded or unloaded on these pods, and their state is `Unknown`.",
                (
                    Look(
                        "kubectl get pods -A -l patio.dev/injected=true -o wide",
                        "Pods that are not ready, and whether they are on one node or in one namespace.",
                    ),
                    Look(
                        "kubectl logs -n patio-system -l app.kubernetes.io/component=operator --since=15m --tail=-1 "
                        "| grep -E 'cannot poll|is not polled'",
                        "The operator's own faults: open files, addresses that are no pod's.",
                    ),
                ),
                (
                    "One namespace: a NetworkPolicy keeps the operator from port 9091. See "
                    "[Harden](../tasks/harden.md#networkpolicy).",
                    "One node: the node or its network is the cause.",
                    "All of them: the operator's own network policy (`networkPolicy.egress`), or its open files.",
                ),
            ),
        ),
        Alert(
            "PatioWebhookCertificateExpires",
            "warning",
            "1h",
            "min by (cluster, namespace, certificate) (patio_operator_certificate_expiry_timestamp_seconds) - time()\n"
            "  < ${certificateDays} * 86400",
            "The webhook's certificate or its CA ends soon",
            "The webhook's certificate ({{ $labels.certificate }}) of the operator in {{ $labels.namespace }} ends in "
            "{{ $value | humanizeDuration }}.",
            "patio-operator",
            (),
            Runbook(
                "A certificate that should have been replaced long ago was not.",
                "Nothing yet. After its end the API server cannot call the webhook, and rejects pods that ask for a "
                "profile.",
                (
                    Look(
                        "kubectl logs -n patio-system -l app.kubernetes.io/component=operator --since=1h --tail=-1 "
                        "| grep 'webhook certificate'",
                        "Why the operator could not renew it, or did not find new files.",
                    ),
                    Look(
                        "kubectl get certificates,secrets -n patio-system",
                        "With cert-manager: whether the Certificate is Ready.",
                    ),
                ),
                (
                    "The operator makes it: give it back the right to write the Secret `patio-webhook-tls`.",
                    "cert-manager makes it: repair its issuer.",
                    "To replace it now: `kubectl annotate secret patio-webhook-tls -n patio-system "
                    "patio.dev/rotate=now`.",
                ),
                "`webhook.certificate.hours` or your issuer's certificates are shorter than the threshold: lower "
                "`monitoring.rules.thresholds.certificateDays`.",
            ),
        ),
    ),
)

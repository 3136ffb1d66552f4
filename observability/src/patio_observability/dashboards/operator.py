"""The dashboard Operator: who leads, how admission and reconciling go, how objects stand, and who answers how."""

from __future__ import annotations

from patio_observability.dashboards.parts import (
    BLUE,
    CLUSTER,
    GREEN,
    GREY,
    NAMESPACE,
    OPERATOR_NAMESPACE,
    ORANGE,
    RED,
    bad_from,
    good_from,
)
from patio_observability.model import Dashboard, Kind, Panel, Query, Row, State, Step, Unit, graph, stat
from patio_observability.promql import (
    above_zero,
    count,
    fullest,
    grouped,
    increase,
    of_operator,
    operator,
    or_zero,
    own_quantile,
    process,
    rate,
    ratio,
    total,
)

ERROR = 'outcome="error"'
PODS = 'webhook="pods"'
OTHERS = 'webhook!="pods"'
DAY = 86400
OBJECT = ("object_namespace", "object_name")
IN_NAMESPACE = 'cluster=~"$cluster", namespace=~"$namespace"'


def _sidecars(name: str, *matchers: str) -> str:
    return f"patio:{name}{{{', '.join((IN_NAMESPACE, *matchers))}}}"


def _container(name: str) -> str:
    return f'{name}{{cluster=~"$cluster", namespace=~"$operator", container="operator"}}'


NOW = Row(
    "Now",
    (
        stat(
            "Replicas",
            "Replicas of the operator that Prometheus scrapes.",
            "None: runbook PatioOperatorAbsent.",
            or_zero(count(operator("leader"))),
            Unit.COUNT,
            Step(0, RED),
            Step(1, GREEN),
        ),
        stat(
            "Leaders",
            "Replicas that reconcile: exactly one.",
            "None or two for minutes: runbook PatioOperatorLeaders.",
            or_zero(total(operator("leader"))),
            Unit.COUNT,
            Step(0, RED),
            Step(1, GREEN),
            Step(2, RED),
        ),
        stat(
            "Admissions",
            "Pods that the webhook reviews in a second.",
            "Zero is normal while no pods are created.",
            total(rate(operator("admissions_total", PODS))),
            Unit.REQUESTS_PER_SECOND,
            empty="None",
        ),
        stat(
            "Failed admissions",
            "Admissions in the shown range that ended by an error of the operator.",
            "Any: pods are not created. Runbook: PatioAdmissionsFail.",
            or_zero(total(increase(operator("admissions_total", PODS, ERROR)))),
            Unit.COUNT,
            Step(0, GREEN),
            Step(0.5, RED),
        ),
        stat(
            "Slow admissions",
            "Share of admissions that took longer than a second.",
            "Runbook: PatioAdmissionsSlow.",
            "1 - "
            + ratio(
                total(rate(operator("admission_duration_seconds_bucket", PODS, 'le=~"1(\\\\.0)?"'))),
                total(rate(operator("admission_duration_seconds_count", PODS))),
            ),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.01, 0.1),
            empty="None",
        ),
        stat(
            "Failed passes",
            "Share of passes of reconcilers that failed.",
            "Runbook: PatioReconcilesFail.",
            ratio(
                f"({total(rate(operator('reconciles_total', ERROR)))} or vector(0))",
                total(rate(operator("reconciles_total"))),
            ),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(0.05, 0.2),
            empty="None",
        ),
        stat(
            "Open sidecars",
            "Sidecars that accept calls that change something from everyone.",
            "Set access.enforced=true, and recreate these pods.",
            or_zero(count(f"{_sidecars('access_control_enforced')} == 0")),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Firing alerts",
            "Alerts of Patio that fire in any namespace.",
            "Open the alert. Its annotations link to the runbook.",
            or_zero(count('ALERTS{alertname=~"Patio.*", alertstate="firing"}')),
            Unit.COUNT,
            Step(0, GREEN),
            Step(1, RED),
        ),
        stat(
            "Certificate ends in",
            "Time until the first certificate of a replica's webhook ends.",
            "Runbook: PatioWebhookCertificateExpires.",
            f"""min({operator("certificate_expiry_timestamp_seconds", 'certificate="serving"')}) - time()""",
            Unit.SECONDS,
            *good_from(14 * DAY, 30 * DAY),
            empty="None",
        ),
        stat(
            "CA ends in",
            "Time until the CA of the webhook's certificate ends.",
            "Runbook: PatioWebhookCertificateExpires.",
            f"""min({operator("certificate_expiry_timestamp_seconds", 'certificate="ca"')}) - time()""",
            Unit.SECONDS,
            *good_from(14 * DAY, 30 * DAY),
            empty="None",
        ),
        stat(
            "Key age",
            "Age of the key that signs calls to sidecars.",
            "Far above access.keyDays: the operator cannot write its Secret. Its log says why.",
            f"time() - max({operator('signing_key_created_timestamp_seconds')})",
            Unit.SECONDS,
            empty="None",
        ),
        stat(
            "Oldest key",
            "For how long the first of the due objects has had no successful pass of its reconciler.",
            "Runbook: PatioReconcileStuck.",
            fullest(operator("queue_oldest_seconds")),
            Unit.SECONDS,
            Step(0, GREEN),
            *bad_from(60, 600),
            empty="None",
        ),
        stat(
            "Silent sidecars",
            "Sidecars that do not answer the operator, or not as sidecars do.",
            "Runbook: PatioSidecarsUnreachable.",
            or_zero(total(operator("sidecars", 'state=~"unreachable|rejecting"'))),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Unready adapters",
            "LoraAdapters that are not Ready.",
            "The row Objects has the reasons. Runbook: PatioAdapterNotReady.",
            or_zero(total(operator("loraadapters", 'ready!="True"'))),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Unready groups",
            "RoleBasedGroups that are not Ready.",
            "The row Objects has the reasons. Runbook: PatioGroupNotReady.",
            or_zero(total(operator("rolebasedgroups", 'ready!="True"'))),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Versions",
            "Versions of the operator that run.",
            "Two for long: a rollout of the operator does not end.",
            count(count(operator("build_info"), "version")),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(2),
            empty="None",
        ),
    ),
)

REPLICAS = Row(
    "Replicas",
    (
        Panel(
            "Leader",
            "Which replica reconciles. Every replica answers admissions.",
            "A leader that changes often loses its Lease: look for restarts, or for a slow API server.",
            (Query(f"max by (namespace, pod) ({operator('leader')})", "{{pod}}"),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=12,
            height=6,
            empty="None",
            states=(State(0, "Standby", GREY), State(1, "Leads", GREEN)),
        ),
        Panel(
            "RoleBasedGroups",
            "Whether the operator realises RoleBasedGroups, or leaves them to upstream's controller.",
            "A change without your doing: the events of the Lease patio-operator say why.",
            (Query(f"max by (namespace, pod) ({operator('observing_groups')})", "{{pod}}"),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=12,
            height=6,
            empty="None",
            states=(State(0, "Manages", BLUE), State(1, "Observes", ORANGE)),
        ),
        graph(
            "Lease",
            "Renewals of the Lease that failed, and changes of its holder, in each five minutes.",
            "Failures: the API server is slow, or the replica has too little CPU. Runbook: PatioOperatorLeaders.",
            Unit.COUNT,
            Query(total(increase(operator("lease_renew_failures_total"), "5m"), "pod"), "{{pod}} failed"),
            Query(fullest(increase(operator("lease_transitions_total"), "5m")), "changes of the holder"),
            empty="None",
            bars=True,
        ),
        graph(
            "Event loop lag, p99",
            "How late timers of each replica are: what waits for others' work.",
            "Above 0.1 s for long: the replica has too little CPU. Raise operator.resources.",
            Unit.SECONDS,
            Query(own_quantile(0.99, operator("event_loop_lag_seconds"), "pod"), "{{pod}}"),
            empty="None",
        ),
        graph(
            "CPU of the process",
            "CPU cores that each replica uses, as it measures itself.",
            "The leader of a large fleet needs a core while it plans: raise operator.resources.",
            Unit.CORES,
            Query(f"max by (pod) ({of_operator(rate(process('cpu_seconds_total')))})", "{{pod}}"),
            empty="None",
        ),
        graph(
            "Memory of the process",
            "Memory that each replica has in use, as it measures itself.",
            "Near the limit (operator.resources), the replica is killed and another one leads.",
            Unit.BYTES,
            Query(f"max by (pod) ({of_operator(process('resident_memory_bytes'))})", "{{pod}}"),
            empty="None",
        ),
        graph(
            "Open files",
            "Share of the open files and connections that a replica may have.",
            "Each sidecar is a connection of the leader. Near 100 %: raise the hard limit of the container runtime.",
            Unit.SHARE,
            Query(
                "max by (pod) (" + of_operator(ratio(process("open_fds"), process("max_fds"))) + ")",
                "{{pod}}",
            ),
            empty="None",
            greatest=1,
        ),
        graph(
            "Up since",
            "For how long each replica has run.",
            "A line that falls to zero is a restart: `kubectl logs --previous` has its last words.",
            Unit.SECONDS,
            Query(f"time() - max by (pod) ({of_operator(process('start_time_seconds'))})", "{{pod}}"),
            empty="None",
        ),
    ),
)

ADMISSION = Row(
    "Admission",
    (
        graph(
            "Pods reviewed",
            "Pods that the webhook reviews in a second, by outcome.",
            "Errors keep pods from being created. Runbooks: PatioAdmissionsFail, PatioAdmissionsRejected.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("admissions_total", PODS)), "outcome"), "{{outcome}}"),
            empty="None",
        ),
        graph(
            "Duration of an admission",
            "Time to answer the admission of one pod: median, p95 and p99.",
            "The API server waits webhook.timeoutSeconds at most. Runbook: PatioAdmissionsSlow.",
            Unit.SECONDS,
            *(
                Query(own_quantile(which, operator("admission_duration_seconds", PODS)), f"p{which * 100:.0f}")
                for which in (0.5, 0.95, 0.99)
            ),
            empty="None",
        ),
        graph(
            "Other reviews",
            "Profiles and LoraAdapters checked, and RoleBasedGroups converted, in a second, by outcome.",
            "Errors of conversions keep groups from being read in another version. Runbook: PatioReviewsFail.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("admissions_total", OTHERS)), "webhook", "outcome"), "{{webhook}} {{outcome}}"),
            empty="None",
        ),
        graph(
            "Reasons",
            "What reviews came to, by webhook and reason, in each five minutes.",
            "Rejections are sentences for users, in the events of their workloads. Runbook: PatioAdmissionsRejected.",
            Unit.COUNT,
            Query(
                above_zero(total(increase(operator("admissions_total"), "5m"), "webhook", "outcome", "reason")),
                "{{webhook}} {{outcome}}: {{reason}}",
            ),
            width=12,
            empty="None",
            bars=True,
        ),
        graph(
            "Warnings",
            "Warnings in answers of the webhooks, in each five minutes.",
            "Users see them in the answer of kubectl. The operator's log has some of them.",
            Unit.COUNT,
            Query(total(increase(operator("admission_warnings_total"), "5m"), "webhook"), "{{webhook}}"),
            width=12,
            empty="None",
            bars=True,
        ),
    ),
)

RECONCILERS = Row(
    "Reconcilers",
    (
        graph(
            "Passes",
            "Passes of the reconcilers a second, by kind and outcome.",
            "A kind with errors only: the operator's log names the object and the cause.",
            Unit.OPERATIONS_PER_SECOND,
            Query(total(rate(operator("reconciles_total")), "kind", "outcome"), "{{kind}} {{outcome}}"),
            empty="None",
            width=10,
        ),
        graph(
            "Failed passes",
            "Share of passes that failed, for each kind.",
            "Runbook: PatioReconcilesFail.",
            Unit.SHARE,
            Query(
                ratio(
                    total(rate(operator("reconciles_total", ERROR)), "kind"),
                    total(rate(operator("reconciles_total")), "kind"),
                ),
                "{{kind}}",
            ),
            empty="None",
            width=7,
        ),
        graph(
            "Duration of a pass, p99",
            "Time of one pass of a reconciler, for each kind.",
            "Long passes of adapters come from large namespaces, others from a slow API server.",
            Unit.SECONDS,
            Query(own_quantile(0.99, operator("reconcile_duration_seconds"), "kind"), "{{kind}}"),
            empty="None",
            width=7,
        ),
        graph(
            "Keys in the queue",
            "Objects that wait for a worker of their reconciler.",
            "A queue that grows: passes are slower than changes. Look at their duration, and at the API server.",
            Unit.COUNT,
            Query(fullest(operator("queue_depth"), "kind"), "{{kind}}"),
            empty="None",
        ),
        graph(
            "Age of the oldest key",
            "For how long the first of the due objects has had no successful pass.",
            "Runbook: PatioReconcileStuck.",
            Unit.SECONDS,
            Query(fullest(operator("queue_oldest_seconds"), "kind"), "{{kind}}"),
            empty="None",
        ),
        graph(
            "Retries",
            "Passes a second that follow a failed one, and objects whose last pass failed.",
            "The operator's log names the object and the cause.",
            Unit.COUNT,
            Query(above_zero(total(rate(operator("retries_total")), "kind")), "{{kind}}: retries a second"),
            Query(above_zero(fullest(operator("queue_retrying"), "kind")), "{{kind}}: objects"),
            empty="None",
        ),
    ),
)


def _by_reason(title: str, plural: str, condition: str, runbook: str) -> Panel:
    return graph(
        title,
        f"{title}, by the status and the reason of their condition.",
        f"The page Reasons of the documentation explains each reason. Runbook: {runbook}.",
        Unit.COUNT,
        Query(total(operator(plural), condition, "reason"), f"{{{{{condition}}}}} {{{{reason}}}}"),
        empty="None",
        stacked=True,
    )


def _furthest(desired: str, present: str, *labels: str) -> str:
    missing = f"{fullest(operator(desired), *labels)} - {fullest(operator(present), *labels)}"
    return f"topk(10, {missing})"


OBJECTS = Row(
    "Objects",
    (
        _by_reason("LoraAdapters", "loraadapters", "ready", "PatioAdapterNotReady"),
        _by_reason("RoleBasedGroups", "rolebasedgroups", "ready", "PatioGroupNotReady"),
        _by_reason("Profiles", "profiles", "rolled_out", "PatioRolloutStopped"),
        graph(
            "Pods without their adapter",
            "The ten LoraAdapters with the most pods that should have the current source and do not.",
            "`kubectl describe loraadapter` names the pods and what they wait for.",
            Unit.COUNT,
            Query(
                _furthest("loraadapter_desired_pods", "loraadapter_updated_pods", *OBJECT),
                "{{object_namespace}}/{{object_name}}",
            ),
            empty="None",
        ),
        graph(
            "Failed and loaded pods",
            "Pods on which adapters failed, and pods that have them, over all LoraAdapters.",
            "Failed: Patio / Adapters shows where. Runbook: PatioAdapterFailed.",
            Unit.COUNT,
            Query(total(operator("loraadapter_failed_pods")), "failed"),
            Query(total(operator("loraadapter_ready_pods")), "loaded"),
            empty="None",
        ),
        graph(
            "Roles that are not ready",
            "The ten RoleBasedGroups with the most roles that are not ready.",
            "`kubectl describe rolebasedgroup` says what the roles wait for.",
            Unit.COUNT,
            Query(
                _furthest("rolebasedgroup_roles", "rolebasedgroup_ready_roles", *OBJECT),
                "{{object_namespace}}/{{object_name}}",
            ),
            empty="None",
        ),
        graph(
            "Pods behind their profile",
            "Pods with the current and with an older revision of each profile.",
            "Older ones stay with updateStrategy NoUpdate. Runbook: PatioRolloutStopped.",
            Unit.COUNT,
            Query(fullest(operator("profile_behind_pods"), "object_name"), "{{object_name}} behind"),
            Query(fullest(operator("profile_current_pods"), "object_name"), "{{object_name}} current"),
            empty="None",
        ),
        Panel(
            "Objects",
            "Up to ten LoraAdapters, RoleBasedGroups and profiles, those that are not ready first.",
            "Runbooks: PatioAdapterNotReady, PatioGroupNotReady, PatioRolloutStopped.",
            tuple(
                Query(
                    f"bottomk(10, {grouped('max', operator(name), *labels)})",
                    f"{kind} " + "/".join(f"{{{{{label}}}}}" for label in labels),
                )
                for kind, name, labels in (
                    ("LoraAdapter", "loraadapter_ready", OBJECT),
                    ("RoleBasedGroup", "rolebasedgroup_ready", OBJECT),
                    ("Profile", "profile_rolled_out", ("object_name",)),
                )
            ),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            empty="None",
            states=(State(0, "Not ready", RED), State(1, "Ready", GREEN)),
        ),
        graph(
            "Objects without series",
            "Objects that are counted, and have no series of their own.",
            "There are more than the operator shows. The panels by object and their alerts do not see the rest.",
            Unit.COUNT,
            Query(fullest(operator("objects_without_series"), "resource"), "{{resource}}"),
            empty="None",
        ),
    ),
)

API_SERVER = Row(
    "API server",
    (
        graph(
            "Requests by answer",
            "The operator's requests a second, by the code of the answer. None: no answer came.",
            "429 and 5xx: the API server is overloaded. 403: the operator lacks a right. 409 now and then is normal.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("api_requests_total")), "code"), "{{code}}"),
            empty="None",
        ),
        graph(
            "Requests by verb",
            "The operator's requests a second, by verb.",
            "Many lists: watches are lost. Many patches at rest: another controller writes the same fields.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("api_requests_total")), "verb"), "{{verb}}"),
            empty="None",
        ),
        graph(
            "Duration of a request, p99",
            "Time of one request, for each verb. Watches are left out.",
            "Slow requests make passes and admissions slow.",
            Unit.SECONDS,
            Query(own_quantile(0.99, operator("api_request_duration_seconds"), "verb"), "{{verb}}"),
            empty="None",
        ),
        graph(
            "Lost watches",
            "Watches that were lost and begun again, for each resource, in each five minutes.",
            "The log says why. A few after a restart of the API server are normal.",
            Unit.COUNT,
            Query(total(increase(operator("watch_restarts_total"), "5m"), "resource"), "{{resource}}"),
            width=12,
            empty="None",
            bars=True,
        ),
        Panel(
            "Watches",
            "Whether every replica has its watches of a resource.",
            "Not there for minutes: the operator plans from old objects, or not at all. Runbook: PatioWatchLost.",
            (Query(f"min by (resource) ({operator('watch_synced')})", "{{resource}}"),),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=12,
            empty="None",
            states=(State(0, "Not there", RED), State(1, "There", GREEN)),
        ),
    ),
)

SIDECARS = Row(
    "Sidecars",
    (
        graph(
            "Sidecars by state",
            "Sidecars that the leader follows, by how they answer.",
            "Unreachable: the pod or the network. Rejecting: another program at that port. Runbook: "
            "PatioSidecarsUnreachable.",
            Unit.COUNT,
            Query(total(operator("sidecars"), "state"), "{{state}}"),
            empty="None",
            stacked=True,
        ),
        graph(
            "Calls by answer",
            "Calls to sidecars a second, by the code of the answer. None: no answer came.",
            "401 once a pod after a new key is normal. 409 and 422: the sidecar says why in the LoraAdapter's status.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("sidecar_calls_total")), "call", "code"), "{{call}} {{code}}"),
            empty="None",
        ),
        graph(
            "Duration of a call, p99",
            "Time until sidecars answer, for each call. Long-polls are left out.",
            "Slow answers: nodes without CPU for the sidecar, or the operator's own event loop.",
            Unit.SECONDS,
            Query(own_quantile(0.99, operator("sidecar_call_duration_seconds"), "call"), "{{call}}"),
            empty="None",
        ),
        graph(
            "Rejected calls",
            "Calls that sidecars rejected, by code, in each five minutes.",
            "`UnknownKey` on many pods: they do not trust the operator's key. Runbook: PatioCallsRejected.",
            Unit.COUNT,
            Query(
                above_zero(total(increase(_sidecars("access_denials_total"), "5m"), "namespace", "code")),
                "{{namespace}} {{code}}",
            ),
            width=12,
            empty="None",
            bars=True,
        ),
        graph(
            "Access control",
            "Sidecars with access control, and without.",
            "Sidecars without it: set access.enforced=true, and recreate these pods.",
            Unit.COUNT,
            Query(total(_sidecars("access_control_enforced"), "namespace"), "{{namespace}} with"),
            Query(total(f"1 - {_sidecars('access_control_enforced')}", "namespace"), "{{namespace}} without"),
            width=12,
            empty="None",
            stacked=True,
        ),
    ),
)

CONTAINERS = Row(
    "Containers (from cAdvisor and kube-state-metrics)",
    (
        graph(
            "CPU",
            "CPU cores that each replica uses.",
            "The leader of a large fleet needs a core while it plans: raise operator.resources.",
            Unit.CORES,
            Query(total(rate(_container("container_cpu_usage_seconds_total")), "pod"), "{{pod}}"),
            empty="Not scraped",
        ),
        graph(
            "Memory",
            "Memory that each replica needs, without what the kernel could free.",
            "Near the limit (operator.resources), the replica is killed and another one leads.",
            Unit.BYTES,
            Query(total(_container("container_memory_working_set_bytes"), "pod"), "{{pod}}"),
            empty="Not scraped",
        ),
        graph(
            "Restarts",
            "Restarts of each replica in the last hour.",
            "`kubectl logs --previous` has its last words.",
            Unit.COUNT,
            Query(total(increase(_container("kube_pod_container_status_restarts_total"), "1h"), "pod"), "{{pod}}"),
            empty="Not scraped",
        ),
    ),
    collapsed=True,
)

OPERATOR = Dashboard(
    "patio-operator",
    "Patio / Operator",
    "Who leads, how admission and reconciling go, how objects stand, and how API server and sidecars answer.",
    (CLUSTER, OPERATOR_NAMESPACE, NAMESPACE),
    (NOW, REPLICAS, ADMISSION, RECONCILERS, OBJECTS, SIDECARS, API_SERVER, CONTAINERS),
)

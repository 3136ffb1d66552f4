"""The dashboard Operator: who leads, how admission and reconciling go, and what sidecars think of the operator."""

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
)
from patio_observability.model import Dashboard, Kind, Panel, Query, Row, State, Step, Unit, graph, stat
from patio_observability.promql import count, increase, operator, or_zero, own_quantile, rate, ratio, total

ERROR = 'outcome="error"'
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
            total(rate(operator("admissions_total"))),
            Unit.REQUESTS_PER_SECOND,
            empty="None",
        ),
        stat(
            "Failed admissions",
            "Admissions in the shown range that ended by an error of the operator.",
            "Any: pods are not created. Runbook: PatioAdmissionsFail.",
            or_zero(total(increase(operator("admissions_total", ERROR)))),
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
                total(rate(operator("admission_duration_seconds_bucket", 'le=~"1(\\\\.0)?"'))),
                total(rate(operator("admission_duration_seconds_count"))),
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
            Query(total(rate(operator("admissions_total")), "outcome"), "{{outcome}}"),
            empty="None",
        ),
        graph(
            "Duration of an admission",
            "Time to answer one admission: median, p95 and p99.",
            "The API server waits webhook.timeoutSeconds at most. Runbook: PatioAdmissionsSlow.",
            Unit.SECONDS,
            *(
                Query(own_quantile(which, operator("admission_duration_seconds")), f"p{which * 100:.0f}")
                for which in (0.5, 0.95, 0.99)
            ),
            empty="None",
        ),
        graph(
            "Other reviews",
            "Profiles and LoraAdapters checked, and RoleBasedGroups converted, in a second, by outcome.",
            "Errors of conversions keep groups from being read in another version. Runbook: PatioReviewsFail.",
            Unit.REQUESTS_PER_SECOND,
            Query(total(rate(operator("reviews_total")), "kind", "outcome"), "{{kind}} {{outcome}}"),
            empty="None",
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
    ),
)

SIDECARS = Row(
    "Sidecars",
    (
        graph(
            "Rejected calls",
            "Calls that sidecars rejected, by code, in each five minutes.",
            "`UnknownKey` on many pods: they do not trust the operator's key. Runbook: PatioCallsRejected.",
            Unit.COUNT,
            Query(
                total(increase(_sidecars("access_denials_total"), "5m"), "namespace", "code"),
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
    "Who leads, how admission and reconciling go, and whether sidecars accept the operator's calls.",
    (CLUSTER, OPERATOR_NAMESPACE, NAMESPACE),
    (NOW, REPLICAS, ADMISSION, RECONCILERS, SIDECARS, CONTAINERS),
)

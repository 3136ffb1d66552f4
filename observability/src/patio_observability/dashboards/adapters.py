"""The dashboard Adapters: which adapter is on which pod in which state, and what loads and downloads cost."""

from __future__ import annotations

from patio_observability.dashboards.parts import (
    ADAPTER,
    BLUE,
    CLUSTER,
    GREEN,
    GREY,
    GROUP,
    NAMESPACE,
    NAMESPACE_KEY,
    ORANGE,
    POD_NAME,
    RED,
    ROLE,
    YELLOW,
    bad_from,
    good_from,
)
from patio_observability.model import Dashboard, Key, Kind, Panel, Query, Row, State, Step, Unit, graph, stat
from patio_observability.promql import (
    above_zero,
    count,
    fullest,
    increase,
    or_zero,
    own,
    own_quantile,
    rate,
    ratio,
    total,
)

CHOSEN = 'adapter=~"$adapter"'
RARE = "15m"
"""Window of what happens so rarely that most shorter ones are empty."""
NAME = ("cluster", "namespace", "adapter")

STATES = (
    State(1, "Failed", RED),
    State(2, "Pending", GREY),
    State(3, "Downloading", BLUE),
    State(4, "Loading", YELLOW),
    State(5, "Unloading", ORANGE),
    State(6, "Loaded", GREEN),
)
"""States in the order from bad to good: of several values of a cell the worst is shown."""


def _in(state: str) -> str:
    return f"""{own("lora_adapter_state", CHOSEN, f'state="{state}"')} == 1"""


def _pods_in(state: str) -> str:
    """Return on how many pods each adapter is in a state. None of them is 0, which a table must say."""
    return f"{count(_in(state), *NAME)} or 0 * {count(own('lora_adapter_state', CHOSEN), *NAME)}"


_STATE = " or ".join(
    f"""{own("lora_adapter_state", CHOSEN, f'state="{state.text}"')} * {state.value}""" for state in STATES
)

NOW = Row(
    "Now",
    (
        stat(
            "Adapters",
            "Names of adapters that pods have or should have.",
            "Compare with `kubectl get lora --all-namespaces`.",
            or_zero(count(count(own("lora_adapter_state", CHOSEN), *NAME))),
            Unit.COUNT,
        ),
        stat(
            "Loaded",
            "Adapters, counted on each pod, that the engine has loaded.",
            "Compare with the number of desired ones on the right.",
            or_zero(count(_in("Loaded"))),
            Unit.COUNT,
        ),
        stat(
            "Loaded share",
            "Share of desired adapters, counted on each pod, that the engine has loaded.",
            "Below 100 % for long: see the table for the adapter.",
            ratio(count(_in("Loaded")), count(own("lora_adapter_state", CHOSEN, 'state!="Unloading"'))),
            Unit.SHARE,
            *good_from(0.9, 1),
            empty="No adapters",
        ),
        stat(
            "Failed",
            "Adapters, counted on each pod, that the engine rejected or that could not be fetched.",
            "`kubectl describe lora NAME` has the engine's words. Runbook: PatioAdapterFailed.",
            or_zero(count(_in("Failed"))),
            Unit.COUNT,
            Step(0, GREEN),
            Step(1, RED),
        ),
        stat(
            "Pending",
            "Adapters, counted on each pod, that wait for the engine, for a free slot or for a retry.",
            "For long: `kubectl describe lora NAME`. Runbook: PatioAdapterStuck.",
            or_zero(count(_in("Pending"))),
            Unit.COUNT,
            Step(0, GREEN),
            *bad_from(1),
        ),
        stat(
            "Downloading",
            "Adapters, counted on each pod, whose files are being fetched.",
            "For long: see the bytes a second below.",
            or_zero(count(_in("Downloading"))),
            Unit.COUNT,
        ),
        stat(
            "Slots in use",
            "Share of the engines' adapter slots that are occupied.",
            "At 100 % a further adapter has to wait, or evicts another one.",
            ratio(total(own("lora_slots_used")), total(own("lora_slots"))),
            Unit.SHARE,
            Step(0, GREEN),
            *bad_from(1),
            empty="No adapters",
        ),
        stat(
            "Restores",
            "Times in the shown range that new weights failed and the previous ones were loaded again.",
            "The new revision is broken: `kubectl describe lora NAME` says why.",
            or_zero(total(increase(own("lora_operations_total", 'operation="restore"')))),
            Unit.COUNT,
            Step(0, GREEN),
            Step(0.5, RED),
        ),
    ),
)

MATRIX = Row(
    "Adapters and pods",
    (
        Panel(
            "State of each adapter on each pod",
            "One line for each adapter and pod.",
            "A line that keeps changing is an adapter that is evicted and loaded again.",
            (
                Query(
                    f"min by (cluster, namespace, adapter, pod) ({_STATE})",
                    "{{adapter}} on {{pod}}",
                ),
            ),
            Unit.STATE,
            Kind.STATE_TIMELINE,
            width=24,
            height=12,
            empty="No adapters",
            states=STATES,
            opens_pod=True,
        ),
        Panel(
            "Adapters",
            "One line for each adapter: on how many pods it is loaded, and on how many it is desired.",
            "Start with adapters that are loaded nowhere. Runbook: PatioAdapterNowhere.",
            (
                Query(count(own("lora_adapter_state", CHOSEN, 'state!="Unloading"'), *NAME), "Pods"),
                *(Query(_pods_in(state), state) for state in ("Loaded", "Failed", "Pending", "Downloading")),
            ),
            Unit.COUNT,
            Kind.TABLE,
            width=12,
            empty="No adapters",
            keys=(NAMESPACE_KEY, Key("adapter", "Adapter", opens="patio-adapters", carries=("namespace",), width=140)),
        ),
        graph(
            "States over time",
            "Adapters, counted on each pod, by state.",
            "A rollout shows as a wave of Downloading and Loading. Failed or Pending that stays needs a look.",
            Unit.COUNT,
            Query(count(f"{own('lora_adapter_state', CHOSEN)} == 1", "state"), "{{state}}"),
            width=12,
            empty="No adapters",
            stacked=True,
            colors=tuple((state.text, state.color) for state in STATES),
        ),
        graph(
            "Revisions",
            "Pods by the revision of each adapter that their engine serves. A pod that serves none has an empty one.",
            "Two revisions of one adapter at a time are a rollout in progress, or one that stopped.",
            Unit.COUNT,
            Query(count(own("lora_adapter_info", CHOSEN), "adapter", "revision"), "{{adapter}} {{revision}}"),
            width=12,
            empty="No adapters",
            stacked=True,
        ),
        graph(
            "Longest time in a state",
            "Seconds since each adapter entered a state that should pass, on the pod where that is longest.",
            "Pending or Downloading for long: `kubectl describe lora NAME`. Runbook: PatioAdapterStuck.",
            Unit.SECONDS,
            Query(
                fullest(
                    f"""time() - {own("lora_adapter_state_timestamp_seconds", CHOSEN, 'state!="Loaded"')}""",
                    "adapter",
                    "state",
                ),
                "{{adapter}} {{state}}",
            ),
            width=12,
            empty="None",
        ),
    ),
)

OPERATIONS = Row(
    "Loads and unloads",
    (
        graph(
            "Operations",
            "Loads, reloads, restores and unloads a second, by outcome.",
            "Loads that never end are adapters that evict each other. Runbook: PatioAdaptersThrash.",
            Unit.OPERATIONS_PER_SECOND,
            Query(total(rate(own("lora_operations_total")), "operation", "outcome"), "{{operation}} {{outcome}}"),
            empty="None",
        ),
        graph(
            "Failed operations",
            "Operations that the engine did not carry out, by reason, in each five minutes.",
            "Reasons and events in the documentation says what each reason means and what to do.",
            Unit.COUNT,
            Query(
                above_zero(
                    total(
                        increase(own("lora_operations_total", 'outcome!="ok"'), "5m"), "operation", "outcome", "reason"
                    )
                ),
                "{{operation}} {{outcome}} {{reason}}",
            ),
            empty="None",
            bars=True,
        ),
        graph(
            "Duration",
            "Seconds of a load, reload, restore or unload in 15 minutes: median and p95, with the check of the "
            "engine's list.",
            "Slow loads come from slow storage, or from an engine that loads between two steps of a large batch.",
            Unit.SECONDS,
            *(
                Query(
                    own_quantile(which, own("lora_operation_duration_seconds"), "operation", window=RARE),
                    f"{{{{operation}}}} p{which * 100:.0f}",
                )
                for which in (0.5, 0.95)
            ),
            empty="None",
        ),
        graph(
            "Slots on each pod",
            "Share of adapter slots that are occupied on each pod.",
            "Full on some pods only: adapters are placed unevenly, see their selectors.",
            Unit.SHARE,
            Query(
                ratio(
                    fullest(own("lora_slots_used"), "namespace", "pod"),
                    fullest(own("lora_slots"), "namespace", "pod"),
                ),
                "{{pod}}",
            ),
            empty="No adapters",
            width=12,
            greatest=1,
        ),
        graph(
            "Loads on each pod",
            "Loads and reloads of each pod in each 30 minutes.",
            "More than three times the adapters of the pod: runbook PatioAdaptersThrash.",
            Unit.COUNT,
            Query(
                total(increase(own("lora_operations_total", 'operation=~"load|reload"'), "30m"), "namespace", "pod"),
                "{{pod}}",
            ),
            empty="None",
            width=12,
            opens_pod=True,
        ),
    ),
)

DOWNLOADS = Row(
    "Downloads",
    (
        graph(
            "Bytes",
            "Bytes a second that sidecars read, by source.",
            "Many pods that fetch at a time share the network: stagger the rollout.",
            Unit.BYTES_PER_SECOND,
            Query(total(rate(own("download_bytes_total")), "source"), "{{source}}"),
            empty="None",
        ),
        graph(
            "Duration, p95",
            "Seconds of a download in 15 minutes, from the order to its end, pauses included, by source and outcome.",
            "Compare with the bytes a second: if those are low, the source or the network is slow.",
            Unit.SECONDS,
            Query(
                own_quantile(0.95, own("download_duration_seconds"), "source", "outcome", window=RARE),
                "{{source}} {{outcome}}",
            ),
            empty="None",
        ),
        graph(
            "Failed attempts",
            "Failed attempts at downloads, by source and reason, in each five minutes.",
            "The sidecar tries again by itself. Runbook: PatioDownloadsFail.",
            Unit.COUNT,
            Query(
                above_zero(total(increase(own("download_failures_total"), "5m"), "source", "reason")),
                "{{source}} {{reason}}",
            ),
            empty="None",
            bars=True,
        ),
        graph(
            "Unfinished",
            "Downloads that have not ended, by state.",
            "Waiting for long: another pod writes to the same folder, or the source fails and the next attempt waits.",
            Unit.COUNT,
            Query(total(own("downloads"), "state"), "{{state}}"),
            empty="None",
            stacked=True,
        ),
        graph(
            "Progress",
            "Share of the bytes of unfinished downloads that are on disk, for each pod.",
            "A line that does not rise is a source that does not send: see the failed attempts.",
            Unit.SHARE,
            Query(
                ratio(
                    total(own("download_done_bytes"), "namespace", "pod"),
                    total(own("download_expected_bytes"), "namespace", "pod"),
                ),
                "{{pod}}",
            ),
            empty="No downloads",
            greatest=1,
            opens_pod=True,
        ),
        graph(
            "Disk",
            "Share of the limit of downloads that files take on each pod, and that adapters in use hold. The other "
            "files are removed when a download needs the room.",
            "Held near the limit: remove adapters, or raise the limit. Runbook: PatioDiskAlmostFull.",
            Unit.SHARE,
            *(
                Query(
                    ratio(
                        total(own("download_disk_bytes", f'kind="{kind}"'), "namespace", "pod"),
                        total(own("download_disk_bytes", 'kind="limit"'), "namespace", "pod"),
                    ),
                    f"{{{{pod}}}} {kind}",
                )
                for kind in ("used", "held")
            ),
            empty="No downloads",
            greatest=1,
            opens_pod=True,
        ),
    ),
)

ADAPTERS = Dashboard(
    "patio-adapters",
    "Patio / Adapters",
    "Which adapter is on which pod, in which state, and what loads and downloads cost.",
    (CLUSTER, NAMESPACE, GROUP, ROLE, POD_NAME, ADAPTER),
    (NOW, MATRIX, OPERATIONS, DOWNLOADS),
)

"""What several dashboards have in common: variables, colours, and columns of tables."""

from __future__ import annotations

from patio_observability.model import CustomVariable, Key, LabelValues, State, Step
from patio_observability.promql import OPERATOR, OWN, own

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "gray"

TTFT_BOUNDS = ("0.1", "1", "10", "20", "40", "80")
TPOT_BOUNDS = ("0.01", "0.025", "0.1", "0.2", "0.4", "1")
"""Bounds of buckets that vLLM and SGLang both have: a share below one of them is right across engines."""

CLUSTER = LabelValues("cluster", "Cluster", "cluster", "patio:engine_up")
NAMESPACE = LabelValues("namespace", "Namespace", "namespace", 'patio:engine_up{cluster=~"$cluster"}')
MODEL_NAME = LabelValues(
    "model_name", "Model", "model_name", 'patio:num_requests_running{cluster=~"$cluster", namespace=~"$namespace"}'
)
INFERENCE_ENGINE = LabelValues(
    "inference_engine",
    "Engine",
    "inference_engine",
    'patio:build_info{cluster=~"$cluster", namespace=~"$namespace"}',
)
GROUP = LabelValues(
    "group",
    "Group",
    "rbg_workloads_x_k8s_io_group_name",
    'patio:engine_up{cluster=~"$cluster", namespace=~"$namespace"}',
)
ROLE = LabelValues(
    "role",
    "Role",
    "rbg_workloads_x_k8s_io_role_name",
    'patio:engine_up{cluster=~"$cluster", namespace=~"$namespace", rbg_workloads_x_k8s_io_group_name=~"$group"}',
)
POD_NAME = LabelValues("pod", "Pod", "pod", f"patio:engine_up{{{OWN.rpartition(', ')[0]}}}")
ADAPTER = LabelValues("adapter", "Adapter", "adapter", f"patio:lora_adapter_state{{{OWN}}}")
OPERATOR_NAMESPACE = LabelValues(
    "operator", "Operator's namespace", "namespace", f"patio_operator_leader{{{OPERATOR.rpartition(', ')[0]}}}"
)
TTFT_SLO = CustomVariable("ttft_slo", "First token within (s)", TTFT_BOUNDS, "1")
TPOT_SLO = CustomVariable("tpot_slo", "Each token within (s)", TPOT_BOUNDS, "0.1")

PODS = (CLUSTER, NAMESPACE, MODEL_NAME, INFERENCE_ENGINE, GROUP, ROLE, POD_NAME)

UP = (State(0, "Not up", RED), State(1, "Up", GREEN))
AWAKE = (State(0, "Asleep", YELLOW), State(1, "Awake", GREEN))
DRAINING = (State(0, "In service", GREEN), State(1, "Drained", ORANGE))
LISTED = (State(0, "Not listed", RED), State(1, "Listed", GREEN))

NAMESPACE_KEY = Key("namespace", "Namespace", opens="patio-fleet", width=120)
POD_KEY = Key("pod", "Pod", opens="patio-engine", carries=("namespace",), width=180)
MODEL_KEY = Key("model_name", "Model", opens="patio-fleet", carries=("namespace",), width=150)


def bad_from(warning: float, critical: float | None = None) -> tuple[Step, ...]:
    """Return colours for a number that is bad when it is large."""
    return (Step(warning, ORANGE), *((Step(critical, RED),) if critical is not None else ()))


def good_from(fair: float, good: float) -> tuple[Step, ...]:
    """Return colours for a number that is bad when it is small."""
    return (Step(0, RED), Step(fair, ORANGE), Step(good, GREEN))


def in_state(state: str) -> str:
    """Return the adapters, each on its pod, that are in a state. Only the current state of an adapter has a series."""
    return f"""{own("lora_adapter_state", f'state="{state}"')} == 1"""

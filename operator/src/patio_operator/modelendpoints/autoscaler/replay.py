"""The decisions that a trace leads to: `replay`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from patio_operator.modelendpoints.autoscaler.decision import Decision
from patio_operator.modelendpoints.autoscaler.memory import ScalingMemory
from patio_operator.modelendpoints.autoscaler.planner import plan
from patio_operator.modelendpoints.autoscaler.spec import ScalingSpec
from patio_operator.modelendpoints.autoscaler.trace import Step


def replay(
    trace: Iterable[Step], spec: ScalingSpec, memory: ScalingMemory | None = None
) -> Iterator[tuple[Step, Decision]]:
    """Yield each step with its decision.

    What a step sees is as it was recorded, also where a decision before it would have changed it. So a trace gives its
    own decisions again, and with another spec it shows what each step would ask for.

    Args:
        trace: in the order of time.
        spec: what the user says.
        memory: of the step before the first.

    """
    for step in trace:
        decision = plan(step.now, step.observations, spec, memory)
        memory = decision.memory
        yield step, decision

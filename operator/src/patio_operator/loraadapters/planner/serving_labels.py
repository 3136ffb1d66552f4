"""Serving labels: one on a pod for each adapter that its engine serves, by which Services send it requests. Pure.

A label is set after the engine's own list has the adapter, and removed before its weights are: whatever is unloaded or
switched loses its label first, and is left alone for `candidates.DRAIN` after that. Comes after `scheduling` and
`rollout`; `planner` makes one SetServingLabels a pod of it. The labels of a pod whose sidecar is silent are not
touched: nothing is known that would speak against them.
"""

from __future__ import annotations

from collections.abc import Mapping

from patio_api.labels import owners_of
from patio_operator.loraadapters.planner.candidates import Candidate, ObservedPod
from patio_operator.loraadapters.planner.plan import SetServingLabels
from patio_protocol.adapters import AdapterState

MOST_LABELLED = 1000
"""Adapters that a pod's labels show; each has two labels, and an object of the API server has its limit. Those beyond
it answer, and no Service leads to them on that pod."""


def is_serving(candidate: Candidate) -> bool:
    """Tell whether a pod that keeps an adapter shall show it, as far as its own reports say."""
    if not candidate.answers or candidate.report is None:
        return False
    if candidate.updated and candidate.report.state not in (AdapterState.LOADED, AdapterState.FAILED):
        # Between two sources: a label that went for the switch stays away, the last one of an adapter stays.
        return candidate.is_labelled
    return True


def labels_to_set(observed: ObservedPod, shown: Mapping[str, str], off: Mapping[str, str]) -> SetServingLabels | None:
    """Return how a pod's labels must change; None: they are right, or nothing is known of the pod.

    Args:
        observed: the pod.
        shown: the names that its labels shall show, each with the UID of its LoraAdapter.
        off: why a name that it shows must go, where there is more to say than that it does not answer.

    """
    pod = observed.pod
    if observed.silent:
        return None
    if len(shown) > MOST_LABELLED:
        kept = sorted(shown, key=lambda name: (name not in pod.serving, name))[:MOST_LABELLED]
        shown = {name: shown[name] for name in kept}
    owners = owners_of(shown.items())
    if shown.keys() == pod.serving and owners == pod.owners:
        return None
    reasons = [f"{name}: the engine serves it" for name in sorted(shown.keys() - pod.serving)]
    reasons += [
        f"{name}: {off.get(name, 'the engine does not serve it')}" for name in sorted(pod.serving - shown.keys())
    ]
    return SetServingLabels(
        pod, frozenset(shown), "; ".join(reasons) or "the labels do not name the owners of the adapters", owners
    )

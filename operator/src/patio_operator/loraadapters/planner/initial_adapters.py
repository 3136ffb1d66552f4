"""Which adapters a pod is given when it is created, and the orders for them. Pure.

Used by admission before anything runs: `webhooks.pod_mutation` asks, `injection` writes the orders into the pod, where
everybody who may read pods reads them. So no order from here has a credential in it: an adapter whose source needs
some waits for the operator's signed call. Adapters with `replicas` are not here: which pods have those, `planner`
chooses among pods that are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from patio_operator.api.loraadapter import LoraAdapter
from patio_operator.loraadapters.planner.selection import for_pod, load_request
from patio_protocol.adapters import LoadRequest


def initial_adapters(
    adapters: Iterable[LoraAdapter], labels: Mapping[str, str], served: Collection[str], limit: int | None
) -> list[LoadRequest]:
    """Return the orders for the adapters that a pod must have before it is ready.

    Where not all fit, the pinned ones go first and then the older ones, as the planner has it; it says of the others
    that there is no room.

    Args:
        adapters: all LoraAdapters of the pod's namespace.
        labels: the pod's.
        served: names under which its engine will serve its base model; empty when that is not known. Then what is for
            one base model only waits until the engine tells, as it does in the planner.
        room: how many adapters its engine has room for; None: any number, as far as is known.

    """
    matching = [adapter for adapter in adapters if adapter.spec.base_model is None or adapter.spec.base_model in served]
    required = [adapter for adapter in for_pod(matching, labels).values() if adapter.spec.replicas is None]
    return [_order(adapter) for adapter in sorted(required, key=lambda adapter: not adapter.spec.pinned)[:limit]]


def _order(adapter: LoraAdapter) -> LoadRequest:
    request = load_request(adapter)
    if adapter.spec.source.secret_ref is None:
        return request
    return request.model_copy(update={"expects_credentials": True})

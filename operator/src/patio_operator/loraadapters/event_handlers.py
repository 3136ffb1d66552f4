"""Which changes make a namespace's LoraAdapters be planned: of injected pods, LoraAdapters and their Services."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from patio_kube.informer import Informer
from patio_kube.runtime.workqueue import Key, WorkQueue


def register(queue: WorkQueue, *informers: Informer[Any]) -> None:
    """Have each change add the object's namespace to the queue."""
    for informer in informers:
        informer.add_event_handler(lambda namespace, *_: queue.add((namespace,)))


def existing_keys(*informers: Informer[Any]) -> Iterator[Key]:
    """Yield the namespaces that have any of the objects."""
    yield from (
        (namespace,) for namespace in {namespace for informer in informers for namespace in informer.namespaces()}
    )

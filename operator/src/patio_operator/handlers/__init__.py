"""Which change wakes which reconciler: `Wakes`.

Comes between the watches (`cluster.known`), which tell what was there and what is there of an object, and the work
queues of `reconcile`. Each handler turns a change into keys, and nothing more. What users write into labels and
annotations becomes a key only when there is an object of that name.
"""

from patio_operator.handlers.wakes import Wakes

__all__ = ["Wakes"]

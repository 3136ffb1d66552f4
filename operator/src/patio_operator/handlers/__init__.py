"""What wakes which reconciler: `wakes` by the operator's own watches, `framework` by kopf.

Comes between the watches and the work queues of `reconcile`. Each handler turns a change into keys, and nothing more.
What users write into labels and annotations becomes a key only when there is an object of that name. kopf watches the
ClusterEngineRuntimeProfiles, which only administrators write; `cluster.known` watches all other kinds, and these once
more for admissions.
"""

from patio_operator.handlers.wakes import Wakes

__all__ = ["Wakes"]

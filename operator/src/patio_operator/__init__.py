"""Patio's operator: injects the sidecar, realises RoleBasedGroups, makes LoraAdapters be where they are declared.

The flow: `handlers` (kopf) turn events into keys on the work queues of `reconcile`; a reconciler reads what there
is through `cluster` and `sidecars`, lets a pure planner (`groups`, `placement`) decide, and carries the plan out.
`webhooks` answers admissions with `injection`, apart from kopf, so that standby replicas answer too.
"""

__version__ = "0.1.0"

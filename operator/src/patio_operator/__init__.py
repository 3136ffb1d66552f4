"""Patio's operator: injects the sidecar, realises RoleBasedGroups, makes LoraAdapters be where they are declared.

The flow: `cluster` watches, `handlers` turn changes into keys on the work queues of `reconcile`; a reconciler reads
what there is through `cluster` and `sidecars`, lets a pure planner (`groups`, `placement`) decide, and carries the plan
out.
`webhooks` answers admissions with `injection`, in standby replicas too.
"""

__version__ = "0.1.0"

"""Patio's operator: injects the sidecar, realises RoleBasedGroups, keeps LoRA adapters loaded where LoraAdapters say.

The flow: informers (`kube`, `caches`) and kopf (`handlers`) add keys of what changed to work queues (`runtime`). Each
feature (`loraadapters`, `groups`, `profiles`) has a reconciler, which takes a snapshot, lets its pure `planner` decide,
and carries the plan out. `webhooks` answers admissions with `injection`, in standby replicas too. `app` wires all.
"""

__version__ = "0.1.0"

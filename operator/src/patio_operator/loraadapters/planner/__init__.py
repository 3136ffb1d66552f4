"""Which adapter belongs on which pod, and what users read of it. Pure.

`planner.plan` turns a `snapshot.Snapshot` into a `plan.Plan`. What comes in: `observation` (what sidecars report),
`selection` (which pods a LoraAdapter selects, and what a new pod is given at admission), `credentials` (what a Secret
gives). The steps:
`candidates` (each pod as one LoraAdapter sees it), `filters` (why a pod cannot have it now), `capacity` (adapter slots
and preemption), `spread` (order of preference), `scheduling` (which pods get it), `rollout` (a new source),
`serving_labels` (labels that route requests) and `finalizers` (deletion). `status` and `services` make the objects that
users see. `conflicts` says which LoraAdapter admission rejects.
Nothing here does I/O or asks for the time.
"""

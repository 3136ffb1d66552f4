"""LoRA adapters as desired state.

`desired` is what this pod should have, `store` keeps it over restarts. `snapshot` is all that is known at one moment,
`planner` makes a `plan` from it, `reconciler` runs the loop, `executor` carries the plan out. An order changes what is
desired; nothing else makes the sidecar load or unload.
"""

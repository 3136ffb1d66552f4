"""RoleBasedGroups: realised by Patio where upstream's controller is absent, left to it where it runs.

`reconciler` reads a group, what was made of it and the profiles it names, lets `planner` decide and carries the plan
out (`pruning` drops fields that the API server does not know). `upstream` detects upstream's controller. `conversion`
turns groups from one API version into the other; `round_trip` keeps what the other version has no field for.

The sidecar is never in what is made here: pod templates only ask for it, admission injects it.
"""

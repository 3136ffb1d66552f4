"""ClusterEngineRuntimeProfiles: whether pods can be made with one, and how a change reaches the pods that have it.

`reconciler` takes the injected pods from the cache, reads the workloads that make them, lets `planner` decide and
rolls. `validation` (pure) says what is wrong with a profile, from the API server's answer to a trial pod; `dry_run`
asks the API server.
"""

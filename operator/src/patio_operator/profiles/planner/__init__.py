"""Profiles and the pods that have them: which pod runs which revision, and which workload is rolled next. Pure.

- `consumers`: the pods that have a profile, their revisions and workloads
- `workloads`: how a Deployment, StatefulSet or DaemonSet is rolled, whether it is up, and why it cannot be rolled
- `roles`: the same for leader-worker roles, whose pods have no such controller
- `planner`: which workload is rolled now; it returns a `Plan`
- `status`: the profile's status and its events
"""

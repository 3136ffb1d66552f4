"""Profiles and the pods that have them: who runs which revision, and what a change rolls. Pure.

`reconcile.profiles` takes the injected pods from what the watches know, reads the workloads that `planner.to_look_at`
names, carries `plan` out and writes the status. Inside:

- `users`: which pods have a profile at which revision, and which workload makes them
- `workloads`: how a Deployment, StatefulSet or DaemonSet is rolled, whether it is up, and why it cannot be rolled
- `roles`: the same for leader-worker roles, whose pods have no such controller
- `planner`: which workload is rolled now, which one does not come up
- `status`: the profile's status and what its users should hear
"""

from patio_operator.rollouts.planner import Plan, Roll, plan, to_look_at
from patio_operator.rollouts.users import Use, User, use_of, users_of
from patio_operator.rollouts.workloads import Ref, Workload, decode

__all__ = ["Plan", "Ref", "Roll", "Use", "User", "Workload", "decode", "plan", "to_look_at", "use_of", "users_of"]

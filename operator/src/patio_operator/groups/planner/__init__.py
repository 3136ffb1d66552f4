"""RoleBasedGroups in manage mode: from a group and what there is of it to what there should be. Pure.

`reconcile` reads a group, its children and the profiles, calls `plan` and carries the plan out. Inside:

- `naming`: names, labels and identity of what a group makes
- `templates`: a role's pod templates: template or templateRef with its patches (`strategic_merge`), then ours
- `supported`: what of a group this version cannot realise, and what it realises otherwise than asked
- `dependencies`: which roles wait for which
- `rollouts`: how a changed template reaches the pods
- `objects`: StatefulSets, Services and the topology ConfigMap
- `instances`: pods of leader-worker roles, of a revision (`revisions`) and with a past (`memory`)
- `status`: counts and the Ready condition
- `planner`: all of these, in order

Apart from that, `conversion` (with `residue`) turns groups from one API version into the other, and `prune` takes out
of an object what the API server does not know.

The sidecar is never in what is made here: pod templates only ask for it, admission injects it.
"""

from patio_operator.groups.planner import made_by_patio, plan
from patio_operator.groups.plans import Event, GroupPlan, Ref
from patio_operator.groups.pruning import prune
from patio_operator.groups.rollouts import spared_by_a_rollout

__all__ = ["Event", "GroupPlan", "Ref", "made_by_patio", "plan", "prune", "spared_by_a_rollout"]

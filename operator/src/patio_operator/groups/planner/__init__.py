"""From a group and what there is of it to what there should be. Pure.

- `naming`: names, labels and identity of what a group makes
- `templates`: a role's pod templates: template or templateRef with its patches (`strategic_merge`), then ours
- `validation`: what of a group this version cannot realise, and what it realises otherwise than asked
- `dependencies`: which roles wait for which
- `rolling_updates`: how a changed template reaches the pods
- `objects`: StatefulSets, Services and the topology ConfigMap
- `instances`: pods of leader-worker roles, of a revision (`revisions`), and what is recorded of their restarts
  (`restart_state`)
- `status`: counts and the Ready condition
- `planner`: all of these, in order; it returns a `plan.Plan`
"""

"""From a ModelEndpoint and what there is of it to what there should be. Pure.

- `snapshot`: what is planned from, and how objects and pods of the API server become it
- `naming`: names, labels, owner and revision of what is made of an endpoint
- `claims`: which names in requests are whose
- `engine_commands`: command lines of engines and routers (`..model_fetch`: a model is fetched first)
- `objects`: the RoleBasedGroup of a revision, and the Service
- `workers`: the workers of a group: which answer, which start, which fail to start
- `rollout`: how many workers each revision has
- `status`: counts, progress and conditions
- `planner`: all of these, in order; it returns a `plan.Plan`
"""

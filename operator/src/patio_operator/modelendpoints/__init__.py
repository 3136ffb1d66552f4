"""ModelEndpoints: a whole model in one object becomes workers that answer requests.

`reconciler` makes a pass over an endpoint: it takes a snapshot from the API server, from `caches` and from what the
gateway's replicas report (`demand`), lets `planner` decide what there should be of it (a RoleBasedGroup for each
revision, a Service, a status), and carries that out. `validation` says what the schema cannot say of an endpoint,
`autoscaler` how many workers it should have; `model_fetch` is a program that runs in the workers.
"""

"""Which router sends this pod its requests.

`settings`, `addresses` and `registered_worker` say what is registered where, `planner` decides the next step for one
worker at one router, `routers` speaks to the routers, `registrar` carries the plan out. `client` keeps this pod's
worker registered, through one `registration` a router: directly, or by a lease at a sidecar beside the router. `server`
is that sidecar: `leases` and `lease_file` are what it remembers. `factory` puts the parts together.
"""

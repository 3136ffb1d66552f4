"""Which router sends this pod its requests.

`config`, `addresses` and `worker` say what is registered where, `plan` decides the next step for one worker at one
router, `routers` speaks to the routers, `registrar` makes it so. `client` keeps this pod's worker registered, with the
routers or by a lease at a sidecar beside one; `server` is that sidecar: `leases` and `lease_file` are what it
remembers.
"""

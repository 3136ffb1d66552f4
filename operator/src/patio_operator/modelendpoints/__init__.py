"""ModelEndpoints: a whole model in one object becomes workers that answer requests.

`planner` decides what there should be of an endpoint: a RoleBasedGroup for each revision, a Service, a status.
`validation` says what the schema cannot say of one, `demand` adds up what the gateway's replicas report.
"""

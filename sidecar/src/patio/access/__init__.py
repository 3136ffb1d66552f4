"""Who may change what this pod does: a caller that proves to be the operator, or a program inside the pod.

`openness` is what a route declares, and by default it is closed; `limits` is what no request may be; `loopback` knows a
call from the pod's own loopback that only a program of the pod can have made. `proof` reads and judges a signed call,
`keys` knows whose signatures count, `replay` which proofs were used. `authorizer` holds the state of the latter two and
decides each call; `routes.access` asks it before every route. `connection_limits` shares places among callers. All of
these are pure. `settings` is what the sidecar is configured with, `metrics` counts denials and warns while access
control is off.
"""

"""Who may change what this pod does: from inside the pod everyone, from outside whoever proves to be the operator.

`config` is what the sidecar is told, `proof` reads and judges a signed call, `keys` knows whose signatures count,
`replay` what was used already; all of them pure. `gate` holds their state and is asked by `api.routes.access`, which
stands before every route. `notices` tells those who run a sidecar without all this.
"""

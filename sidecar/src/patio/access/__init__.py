"""Who may change what this pod does: who proves to be the operator, and from inside the pod who means to.

`openness` is what a route declares, and by default it is closed; `limits` is what no request may be; `inside` knows a
call from the pod's own loopback that nobody was tricked into. `config` is what the sidecar is told, `proof` reads and
judges a signed call, `keys` knows whose signatures count, `replay` what was used already. `gate` holds the state of the
latter and is asked by `routes.access`, which stands before every route. `crowd` shares places among those who call.
All of these are pure. `notices` tells those who run a sidecar without access control.
"""

"""How operator and sidecars prove to each other who they are.

The operator signs each call: `signing_keys` and `proofs` are pure, `signing_key_rotation` keeps the key in a Secret,
`auth` signs requests on their way. A sidecar proves which pod it is in by a token: `token_rules` (pure) judges what the
API server says of it, `token_reviews` asks. `sealing` encrypts credentials for one sidecar. The claims themselves are
part of the wire contract, which sidecars verify by.
"""

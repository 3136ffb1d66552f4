"""How the operator proves to sidecars that a call is its own. Pure: `keys` and how they follow each other, `proofs`.

The signing key is kept in a Secret by `reconcile.signing_key`, calls are signed on their way by `sidecars.signed`, and
injection gives the public key to the pods. What is signed is in `patio_protocol.authentication`; sidecars verify by it.
"""

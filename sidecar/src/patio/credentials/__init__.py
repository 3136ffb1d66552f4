"""Credentials that come sealed: proves to the operator which pod this is, and opens what it sealed for that proof.

`token` reads the pod's service account token, `sealing` holds the key of this process. Asked by
`routes.credentials` (the handshake) and `routes.adapters` (orders). What was opened goes into the order's
`config` and from there where all credentials go: into memory, and to the source.
"""

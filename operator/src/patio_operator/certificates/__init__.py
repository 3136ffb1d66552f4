"""The webhook's certificates.

`authority` (pure) says what a good set is and what follows it, `rotation` keeps it in a Secret and in the
configurations that the API server trusts, `crd_bundle` does the same for the CRD's conversion webhook.
"""

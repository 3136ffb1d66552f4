"""The operator's custom resources as pydantic models, and the CRDs generated from them.

One module per kind (`loraadapter`, `profile`, `rolebasedgroup`), the shapes they share in `meta`, their
conditions in `conditions`, and the way from model to CRD in `schema` (pydantic's JSON schema made
structural) and `crd` (versions, printer columns, files). Everything else in the operator reads objects
through these models; this package imports nothing of it and does no I/O, apart from the files that `python
-m patio_operator.api.crd` writes.
"""

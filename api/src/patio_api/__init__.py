"""Patio's custom resources as pydantic models, and the CRDs generated from them.

One module for each kind (`loraadapter`, `profile`, `rolebasedgroup`, `model_endpoint`, `demand_report`), the shapes
they share in `meta`, the labels and annotations of all in `labels`, conditions in `conditions`, and the way from model
to CRD in `schema` (pydantic's JSON schema made structural) and `crd` (versions, printer columns, files). Operator and
gateway read objects through these models. Nothing here does I/O, apart from the files that `python -m patio_api.crd`
writes.
"""

__version__ = "0.1.0"

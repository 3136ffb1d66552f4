"""Brings the CRDs in the cluster to this version: `python -m patio_operator.crd_upgrade`, a hook of the chart.

Helm creates CRDs and never changes them. Before an upgrade, the chart's hook therefore runs the new operator's image.
`planner` (pure) compares each CRD in the cluster with the one that the models give, and decides; `upgrade` reads them,
has all decided before the first write, and applies. Only forward, never over upstream's CRDs, and what the operator
writes into the conversion of a CRD stays.
"""

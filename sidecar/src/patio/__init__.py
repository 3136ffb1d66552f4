"""Patio's sidecar: one light process in every engine pod.

It answers for its pod: normalised metrics, which LoRA adapters the pod should have and has, and whether the
pod may receive requests. It never talks to the Kubernetes API; the operator calls it, through `patio_protocol.client`.
"""

__version__ = "0.1.0"

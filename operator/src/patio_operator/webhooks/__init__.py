"""Admission and conversion: `review` and `convert` answer, `server` listens over TLS, `certificates` and `crd_bundle`
make what TLS needs.

Apart from kopf on purpose: kopf stops watching in a standby replica, and every replica must answer admissions.
"""

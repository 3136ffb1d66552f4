"""Admission: `review` answers, `server` listens over TLS, `certificates` makes what TLS needs.

Apart from kopf on purpose: kopf stops watching in a standby replica, and every replica must answer admissions.
"""

"""Admission: `review` answers, `server` listens over TLS, `certificates` makes what TLS needs, `keeper` keeps it.

Apart from kopf on purpose: every replica answers, whichever leads, from what it reads when it is asked.
"""

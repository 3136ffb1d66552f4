"""Admission and conversion: `review`, `profiles`, `loraadapters` and `convert` answer, `server` listens over TLS.

`reviewing` reads what comes in, within limits, for all of them.

`certificates` and `crd_bundle` decide what TLS needs, `keeper` keeps it. Apart from kopf on purpose: every replica
answers, whichever leads, from what it reads when it is asked.
"""

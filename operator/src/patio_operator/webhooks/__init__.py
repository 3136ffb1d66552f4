"""Admission and conversion: `review`, `profiles`, `loraadapters` and `convert` answer, `server` listens over TLS.

`reviewing` reads what comes in, within limits, for all of them.

`certificates` and `crd_bundle` decide what TLS needs, `keeper` keeps it. Every replica
answers, whichever leads, from what it reads when it is asked.
"""

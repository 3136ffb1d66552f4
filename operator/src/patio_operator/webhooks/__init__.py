"""Admission and conversion: `review`, `profiles`, `loraadapters` and `convert` answer, `server` listens over TLS.

`reviewing` reads what comes in, within limits, for all of them.

`certificates` and `crd_bundle` decide what TLS needs, `keeper` keeps it. Every replica answers, whichever leads, from
what its own watches know and, where these may not know it yet, from the API server (`lookups`).
"""

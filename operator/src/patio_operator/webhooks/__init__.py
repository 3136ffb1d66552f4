"""Admission and conversion: `pod_mutation`, `profiles`, `loraadapters` and `conversion` answer, `server` listens.

`reviewing` reads what comes in, within limits, for all of them; `connections` bounds what callers hold. Every replica
answers, whichever leads, from its own caches and, where these may not be current yet, from the API server
(`pod_mutation_reads`).
"""

"""The loops that make things so: `queue` decides when, `adapters` and `groups` what, each for one key at a time.

`signing_key` is a loop of its own: it keeps the key that calls to sidecars are signed with.
"""

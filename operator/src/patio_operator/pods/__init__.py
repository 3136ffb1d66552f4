"""Injected pods as the operator keeps them: read once from the API server's objects, by bounded decoders. Pure.

`injected_pod` is what the cache has of each: `engine_pod` (where its sidecar is, which adapters its labels show) for
LoraAdapters, `profile_use` (which profiles it has, which workload makes it) for profiles. Both features read the same
cache, so neither owns these.
"""

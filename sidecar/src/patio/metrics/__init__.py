"""One vocabulary of metrics for all engines.

`mappings` says which standard series comes from which of an engine's, `rewrite` applies that to the engine's text as
bytes, `self_metrics` has the sidecar's own metrics, `scrape` fetches and serves.
"""

"""Patio's wire contract: the models, names and rules that the sidecar, the operator and other callers share.

One module for each part of the sidecar's HTTP API (`adapters`, `downloads`, `topology`, `authentication`,
`credentials`), the source URIs that orders name (`sources`), sealed boxes for credentials, facts of the engines,
backoff, and `client`, which calls a sidecar. All but `client` and `error_text` are pure. Nothing here imports the
sidecar or the operator, and both import this.
"""

__version__ = "0.1.0"

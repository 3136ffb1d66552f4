"""Patio's wire contract: the models, names and rules that the sidecar, the operator and other callers share.

One module for each part of the sidecar's HTTP API (`adapters`, `downloads`, `topology`, `authentication`,
`credentials`), the source URIs that orders name (`sources`), sealed boxes for credentials, facts of the engines,
backoff, and `client`, which calls a sidecar. Only `client` does I/O. Nothing here imports the sidecar or the operator;
both import this.
"""

__version__ = "0.1.0"

"""The sidecar's HTTP API: `protocol` is its vocabulary, `routes` answers it."""

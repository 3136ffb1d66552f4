"""For the sidecar's tests: builders, engines and routers in this process or beside it, and sources of downloads."""

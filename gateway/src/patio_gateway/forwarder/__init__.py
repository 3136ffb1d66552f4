"""The forwarder: Model Engine's `http_forwarder`, a process beside an engine that answers for it.

`config` reads upstream's file with `overrides` upon it; `routes` says which path is forwarded how. `app` takes a
request within the limit (`permits`), reads its body (`payload`), and `relay` sends it to the engine and brings the
answer back, for streams by `events`. `server` runs that in as many processes as wanted. Nothing here knows models,
keys, Envoy or Kubernetes, so it starts in a sidecar's image too.
"""

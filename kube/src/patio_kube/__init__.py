"""The Kubernetes client: what talks to the API server, and knows nothing of Patio's features.

- `client`: requests, with errors distinguished by cause (`bodies` reads the answers, within bounds)
- `resources`: group, version, kind and plural of each resource that the operator uses
- `informer`: a cache of one resource, kept by `reflector` (list and watch)
- `coalesced_reads`: reads that many callers share
- `events`, `unreadable_objects`: events for the owners of objects
- `shared_secret`: one Secret that all replicas read, decide about and write
- `leader_election` (with its pure rules, `lease_rules`): which replica acts
"""

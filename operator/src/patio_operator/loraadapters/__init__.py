"""LoraAdapters: adapters are loaded where their LoraAdapter objects say.

`reconciler` makes a pass over a namespace: it takes a snapshot from `caches` and from `sidecar_watch` (what each
sidecar reports, decoded by `sidecar_answer`), lets `planner` decide, and has the plan carried out: `dispatcher` sends
load and unload requests (`handshake` before credentials are sent), `label_writer` sets the pods' serving labels,
`service_writer` and `status_writer` write the rest. `secret_reader` reads the Secrets that LoraAdapters name.
"""

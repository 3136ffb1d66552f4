"""Which adapter belongs on which pod, and what to say of it. Pure.

`fleet` holds what was seen of the pods, `matching` says which of them a LoraAdapter wants. `planner` turns both into
`plans`, by way of `spots` (who has what), `placing` (with `rooms`, `spreading` and `obstacles`: who shall have it),
`rollout` (a new source), `marks` (labels) and `deletion`; `status` turns plans into what users read. `credentials` and
`services` are about what belongs to a LoraAdapter beside the pods. For admission, `admitted` says what a new pod is
given and `clashes` which LoraAdapter is refused. Nothing here does I/O or asks for the time.
"""

"""Which adapter belongs on which pod, and what to say of it. Pure.

`matching` says which pods a LoraAdapter wants, `fleet` holds what was seen of them, `planner` turns both into
actions, and `status` into what users read. For admission, `admitted` says what a new pod is given and `clashes` which
LoraAdapter is refused. Nothing here does I/O or asks for the time.
"""

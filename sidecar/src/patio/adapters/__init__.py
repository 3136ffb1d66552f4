"""LoRA adapters as desired state.

`desired` is what this pod should have, `store` keeps it over restarts, `plan` says what to do about it, `reconciler`
does it. An order changes what is wanted; nothing else makes the sidecar load or unload.
"""

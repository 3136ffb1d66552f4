"""Models, workers and keys from the Kubernetes API.

source           informers, and a new snapshot whenever they have another one
assembly         from what is cached to a snapshot, pure
cached_objects   what is kept of each object, pure
key_secrets      clients from Secrets, pure
"""

"""Taking a pod out of service without losing a request.

`looks` counts the engine's requests, `plan` says when they are over, `drain` makes the pod not ready, has it leave its
routers, and waits.
"""

"""Taking a pod out of service without losing a request.

`request_counter` counts the engine's requests, `planner` says when they are over, `drain` makes the pod not ready,
takes it out of its routers' lists, and waits.
"""

"""Injection: what a pod that asks for a profile looks like with it. Pure: pod and profiles in, pod out.

`webhooks` reads with `runtimes_of` what a pod asks for, fetches the profiles, and answers the API server
with the `json_patch` between the pod and `inject`'s. Inside, `admission` goes through one concern after the
other:

- `requested_profiles`: what the pod asks for; `upstream_profiles`: what upstream's controller meant for it
- `limits`: how much of a pod is read at all
- `engine`: which container is the engine and what it serves, from its command line, which `command_line` reads
- `profiles`: the profile's containers and volumes, with the role's overrides
- `volumes`: which files the engine and the sidecar must both see
- `sources`: what adapters' sources need of these volumes
- `variables`: what the sidecar knows about the pod, its role, the engine and its adapters
- `authentication`: who may call the sidecar from outside, the preStop hook among them

Nothing of the user's is dropped or reordered; what contradicts it is a `PodRejection` that names both sides.
Injecting an injected pod changes nothing.
"""

from patio_operator.injection.admission import engine_of, inject
from patio_operator.injection.authentication import CallerKeys
from patio_operator.injection.engine import Engine
from patio_operator.injection.limits import MESSAGE, is_large, shortened
from patio_operator.injection.patch import json_patch
from patio_operator.injection.profiles import revision
from patio_operator.injection.requested_profiles import runtimes_of
from patio_operator.injection.types import Injection, PodRejection, Runtime, RuntimeRef
from patio_operator.injection.upstream_profiles import member_of, runtimes_of_role

__all__ = [
    "MESSAGE",
    "CallerKeys",
    "Engine",
    "Injection",
    "PodRejection",
    "Runtime",
    "RuntimeRef",
    "engine_of",
    "inject",
    "is_large",
    "json_patch",
    "member_of",
    "revision",
    "runtimes_of",
    "runtimes_of_role",
    "shortened",
]

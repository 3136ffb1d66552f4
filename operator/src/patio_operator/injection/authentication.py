"""Who may call the sidecar from outside: the operator, by its public key, and the kubelet, by the preStop hook.

Called by `admission` after `variables`. The hook makes the engine's container wait, when its pod is ended, until the
sidecar has drained it. It proves itself with a word that is good for the drain of this one pod and is nowhere but in
the hook; the sidecar is given its digest.

The other way round, the sidecar proves to the operator which pod it is in, by a service account token that the kubelet
puts into its container alone: of an audience of its own, so that it opens nothing at the API server, and bound to the
pod. Nothing of all this is secret in the pod's spec.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from patio_api.pod_identity_env import EnvVar
from patio_api.pod_identity_env import field as pod_field
from patio_operator.injection.profiles import SIDECAR_PORT_NAME
from patio_operator.injection.types import Container, InjectionError, Pod
from patio_operator.injection.variables import KIND
from patio_protocol.adapters import SIDECAR_PORT
from patio_protocol.authentication import (
    DRAIN_PATH,
    DRAIN_PROOF_VARIABLE,
    DRAIN_SCHEME,
    OPERATOR_KEYS_VARIABLE,
    POD_UID_VARIABLE,
)
from patio_protocol.credentials import TOKEN_AUDIENCE, TOKEN_FOLDER, TOKEN_NAME, TOKEN_SECONDS

TOKEN_VOLUME = "patio-sidecar-token"  # noqa: S105 - a volume's name
DEFAULT_GRACE = 30
LONGEST_DRAIN = 3600
"""Seconds that the sidecar takes as a timeout of a drain."""
_HEADER = "Authorization"


@dataclass(frozen=True)
class CallerKeys:
    """What one admission gives to a pod."""

    operator_keys: tuple[str, ...]
    """Public keys, as base64url of 32 bytes."""
    drain_proof: str = field(repr=False)
    """A random word, another one for each admission."""


def give_keys(sidecar: Container, access: CallerKeys) -> None:
    """Tell the sidecar whose signatures count, and which pod they must be for."""
    _set_missing(sidecar, {"name": POD_UID_VARIABLE, **pod_field("metadata.uid")})
    _set_missing(sidecar, {"name": OPERATOR_KEYS_VARIABLE, "value": ",".join(access.operator_keys)})


def give_token(pod: Pod, sidecar: Container) -> None:
    """Have the kubelet put a token into the sidecar that proves which pod it is in."""
    mounts = sidecar.get("volumeMounts") or []
    if any(mount["mountPath"].rstrip("/") == TOKEN_FOLDER for mount in mounts):
        return  # there from an earlier admission, or its owner has arranged it
    spec = pod["spec"]
    if not spec.get("serviceAccountName"):
        # The API server rejects tokens without an account. Its own admission names an account before webhooks are
        # asked, unless that part of it is off; the sidecar then proves nothing, and gets no credentials.
        return
    token = {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": TOKEN_NAME}
    sources = [{"serviceAccountToken": token}]
    existing = next((volume for volume in spec.get("volumes") or [] if volume["name"] == TOKEN_VOLUME), None)
    if existing is None:
        spec["volumes"] = [*(spec.get("volumes") or []), {"name": TOKEN_VOLUME, "projected": {"sources": sources}}]
    elif (existing.get("projected") or {}).get("sources") != sources:
        raise InjectionError(
            f"Patio adds a volume {TOKEN_VOLUME!r} with a token for {sidecar['name']!r}, but the pod has another "
            "volume of that name: rename it"
        )
    mount = {"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": True}
    sidecar["volumeMounts"] = [*mounts, mount]


def add_hook(pod: Pod, engine: Container, sidecar: Container, access: CallerKeys) -> list[str]:
    """Have the engine's container drained before it is ended; return what its owner should know."""
    names = {variable["name"] for variable in sidecar.get("env") or []}
    if KIND not in names:
        return []  # not known to be an engine: nothing to wait for
    lifecycle = engine.get("lifecycle") or {}
    proof = _own_proof(lifecycle.get("preStop"))
    if proof is None:
        if DRAIN_PROOF_VARIABLE in names:
            return []  # its owner has arranged the hook
        if lifecycle.get("preStop"):
            return [
                f"container {engine['name']!r} has its own preStop hook, so Patio adds none: let the hook POST to "
                f"http://localhost:{_port(sidecar)}{DRAIN_PATH} with 'Content-Type: application/json', or requests in "
                "flight are cut off when the pod ends"
            ]
        native = {container["name"] for container in pod["spec"].get("initContainers") or []}
        if engine["name"] in native:
            return [
                f"{engine['name']!r} is an init container, which ends after {sidecar['name']!r}, so the sidecar "
                "cannot drain it: make it an ordinary container, or requests in flight are cut off when the pod ends"
            ]
        if sidecar["name"] not in native:
            return [
                f"{sidecar['name']!r} is an ordinary container, which ends together with {engine['name']!r} and cannot "
                "drain it: make it an init container with restartPolicy: Always"
            ]
        grace = pod["spec"].get("terminationGracePeriodSeconds")
        seconds = drain_seconds(DEFAULT_GRACE if grace is None else grace)
        if seconds < 1:
            return [
                f"terminationGracePeriodSeconds is too short to drain {engine['name']!r}: requests in flight are cut "
                "off when the pod ends"
            ]
        proof = access.drain_proof
        hook = {
            "path": f"{DRAIN_PATH}?timeout={seconds}",
            "port": _port(sidecar),
            "httpHeaders": [{"name": _HEADER, "value": f"{DRAIN_SCHEME} {proof}"}],
        }
        engine["lifecycle"] = {**lifecycle, "preStop": {"httpGet": hook}}
    _set_missing(sidecar, {"name": DRAIN_PROOF_VARIABLE, "value": hashlib.sha256(proof.encode()).hexdigest()})
    return []


def drain_seconds(grace: int) -> int:
    """Return how long a drain may take: a quarter of the grace period, 2 to 10 s of it, is for the engine to end."""
    return min(LONGEST_DRAIN, grace - min(10, max(2, grace // 4)))


def _own_proof(hook: Mapping[str, Any] | None) -> str | None:
    """Return what a hook of ours proves itself with; None when it is not ours."""
    for header in ((hook or {}).get("httpGet") or {}).get("httpHeaders") or []:
        scheme, _, proof = header.get("value", "").partition(" ")
        if header.get("name") == _HEADER and scheme == DRAIN_SCHEME:
            return str(proof)
    return None


def _port(sidecar: Mapping[str, Any]) -> int:
    ports = [port["containerPort"] for port in sidecar.get("ports") or [] if port.get("name") == SIDECAR_PORT_NAME]
    return int(ports[0]) if ports else SIDECAR_PORT


def _set_missing(container: Container, variable: EnvVar) -> None:
    env = container.get("env") or []
    if all(existing["name"] != variable["name"] for existing in env):
        container["env"] = [*env, variable]

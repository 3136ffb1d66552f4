"""Whose calls from outside the pod may change something: the settings of access control, and the variables and the flag
that they are read from. Read by `authorizer`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from patio.variables import SettingsError
from patio_protocol.authentication import (
    ACCESS_CONTROL_VARIABLE,
    DRAIN_PROOF_VARIABLE,
    OPERATOR_KEYS_VARIABLE,
    POD_UID_VARIABLE,
    from_base64url,
)
from patio_protocol.credentials import TOKEN_FILE


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Whose calls from outside may change something."""

    enforced: bool = True
    """Off: everyone's."""
    keys: tuple[str, ...] = ()
    """The operator's public keys at admission, as base64url of 32 bytes."""
    pod_uid: str = ""
    """The pod that proofs must be for."""
    drain_proof_sha256: str = field(default="", repr=False)
    """SHA-256, in hex, of what the preStop hook shows. Empty: there is no hook."""
    token_file: str = TOKEN_FILE
    """Where the kubelet keeps the service account token that proves which pod this is."""


TOKEN_FILE_VARIABLE = "PATIO_ACCESS_TOKEN_FILE"  # noqa: S105 - the name of a variable

VARIABLES = {
    OPERATOR_KEYS_VARIABLE: "comma-separated public keys that verify calls from outside the pod; set at admission",
    POD_UID_VARIABLE: "UID of this pod, which every proof must name; set at admission",
    DRAIN_PROOF_VARIABLE: "SHA-256 of the proof of the pod's preStop hook; set at admission",
    TOKEN_FILE_VARIABLE: f"path of this pod's service account token; default {TOKEN_FILE}",
    ACCESS_CONTROL_VARIABLE: "on or off; off: everyone who reaches the port can change things; default on",
}


def read_access(flag: str | None, env: Mapping[str, str]) -> AccessSettings:
    """Return the settings of access control.

    Args:
        flag: value of --access-control.
        env: the variables that are set.

    Raises:
        SettingsError: a value is not what its setting takes, or keys are given without a pod.

    """
    name, value = ("--access-control", flag) if flag is not None else (ACCESS_CONTROL_VARIABLE, "on")
    if flag is None:
        value = env.get(ACCESS_CONTROL_VARIABLE, value)
    if value.lower() not in ("on", "off"):
        raise SettingsError(f"{name}: {value!r} is not one of on, off")
    keys = tuple(dict.fromkeys(part.strip() for part in env.get(OPERATOR_KEYS_VARIABLE, "").split(",") if part.strip()))
    for key in keys:
        if len(from_base64url(key) or b"") != 32:
            raise SettingsError(
                f"{OPERATOR_KEYS_VARIABLE}: {key[:8]!r}… is not an Ed25519 public key (32 bytes as base64url)"
            )
    if keys and POD_UID_VARIABLE not in env:
        raise SettingsError(f"{OPERATOR_KEYS_VARIABLE} needs {POD_UID_VARIABLE}: a proof is for one pod")
    drain_proof = env.get(DRAIN_PROOF_VARIABLE, "")
    if drain_proof and not re.fullmatch("[0-9a-f]{64}", drain_proof):
        raise SettingsError(f"{DRAIN_PROOF_VARIABLE}: not a SHA-256 in hex")
    token_file = env.get(TOKEN_FILE_VARIABLE, TOKEN_FILE)
    if not token_file.startswith("/"):
        raise SettingsError(f"{TOKEN_FILE_VARIABLE}: {token_file!r} is not an absolute path")
    return AccessSettings(value.lower() == "on", keys, env.get(POD_UID_VARIABLE, ""), drain_proof, token_file)

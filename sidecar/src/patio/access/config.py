"""What the sidecar is told about access. Made by `settings.access`, read by `gate`."""

from __future__ import annotations

from dataclasses import dataclass, field

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

"""Puts credentials into an order so that one sidecar alone can read them, there and nowhere else. Pure but for keys.

The other end is `patio.credentials.sealing`. `sealed` is the only way of a Secret's values into an order that is sent.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from patio_protocol.adapters import LoadRequest
from patio_protocol.credentials import CredentialsText, HandshakeAnswer, TokenText, order_digest, sealed_field
from patio_protocol.sealed_boxes import BoxKey, open_box, seal


def token_of(answer: HandshakeAnswer, key: BoxKey, pod_uid: str) -> str | None:
    """Return the token that a sidecar's answer to a handshake has; None when it is not for this one and this pod."""
    data = open_box(answer.proof, key, answer.key)
    if data is None:
        return None
    try:
        text = TokenText.model_validate_json(data)
    except ValidationError:
        return None
    return text.token if text.pod == pod_uid else None


def sealed(order: LoadRequest, config: Mapping[str, str], pod_uid: str, sidecar_key: str) -> LoadRequest:
    """Return an order with credentials that the sidecar of this key adds to its `config`.

    Args:
        order: what is sent, but for the credentials. They are good for exactly this order.
        config: keys of `config`, and their values.
        pod_uid: the sidecar's pod.
        sidecar_key: the key that it proved to have.

    Raises:
        ValueError: the credentials are too long, or the key is none.

    """
    text = CredentialsText(pod=pod_uid, order=order_digest(order), config=dict(config))
    shut = seal(text.model_dump_json().encode(), sidecar_key)
    if shut is None:
        raise ValueError("the sidecar's key is not valid")
    return order.model_copy(update={"sealed_credentials": sealed_field(sidecar_key, shut)})

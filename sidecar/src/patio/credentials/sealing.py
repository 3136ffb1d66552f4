"""The key that credentials are sealed for, and what it opens.

One key for the life of the process, made at the first handshake and kept nowhere: after a restart the operator makes
another handshake. Only `HANDSHAKE_PATH` gives the token away, into a box that only the signed caller can open. What
was sealed is taken for the pod and the order that it names, and for no other.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import ValidationError

from patio_protocol.adapters import LoadRequest
from patio_protocol.credentials import (
    SEALED_FOR_ANOTHER,
    SEALED_INVALID,
    CredentialsText,
    HandshakeAnswer,
    HandshakeRequest,
    TokenText,
    order_digest,
)
from patio_protocol.sealed_boxes import BoxKey, box, new_key, open_sealed
from patio_protocol.sources import SourceConfig, read_config


class SealedError(Exception):
    """What is sealed in an order cannot be used."""

    def __init__(self, code: str, message: str, retryable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retryable = retryable


class Sealing:
    """Answers handshakes, and opens what was sealed after one."""

    def __init__(self, pod_uid: str, token: Callable[[], str]) -> None:
        """`token` reads the pod's service account token, or raises."""
        self._pod_uid = pod_uid
        self._token = token
        self._key: BoxKey | None = None

    def answer(self, request: HandshakeRequest) -> HandshakeAnswer | None:
        """Prove to the holder of a key which pod this is; None when that is no usable key."""
        text = TokenText(pod=self._pod_uid, token=self._token())
        if self._key is None:
            self._key = new_key()
        proof = box(text.model_dump_json().encode(), self._key, request.key)
        return None if proof is None else HandshakeAnswer(key=self._key.public, proof=proof)

    def opened(self, order: LoadRequest) -> LoadRequest:
        """Return an order with what was sealed in it in its `config`; what `config` says already wins.

        Raises:
            SealedError: it is sealed for another key, pod or order, or is not what an order can have.

        """
        if order.sealed_credentials is None:
            return order
        key, _, sealed = order.sealed_credentials.partition(".")
        if self._key is None or key != self._key.public:
            message = "The credentials are sealed for a key that this sidecar does not have. Make another handshake."
            raise SealedError(SEALED_FOR_ANOTHER, message, retryable=True)
        data = open_sealed(sealed, self._key)
        if data is None:
            raise SealedError(SEALED_INVALID, "The content of sealed_credentials cannot be opened.")
        try:
            text = CredentialsText.model_validate_json(data)
        except ValidationError:
            raise SealedError(SEALED_INVALID, "The content of sealed_credentials cannot be read.") from None
        if (text.pod, text.order) != (self._pod_uid, order_digest(order)):
            raise SealedError(SEALED_INVALID, "The content of sealed_credentials belongs to another order or pod.")
        config = SourceConfig(text.config | read_config(order.config))
        try:
            config.check()
        except ValueError as error:  # its words name keys, never values
            raise SealedError(SEALED_INVALID, f"The content of sealed_credentials cannot be used: {error}.") from None
        return order.model_copy(update={"config": config, "sealed_credentials": None})

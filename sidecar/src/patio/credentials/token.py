"""Reads the token that the kubelet keeps for this sidecar: what proves which pod it is in."""

from __future__ import annotations

import os
import stat

from patio_protocol.credentials import MAX_TOKEN

_REMEDY = "Recreate the pod, so that injection gives it one"


class TokenError(Exception):
    """There is no token; the message says why and what to do."""


def read_token(path: str) -> str:
    """Read the token as it is now: the kubelet replaces it every hour.

    Raises:
        TokenError: there is none, or what is there is none.

    """
    try:
        # A pipe in its place must not make the reader wait.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TokenError(f"{path} is not a file. {_REMEDY}.")
            data = file.read(MAX_TOKEN + 1)
    except FileNotFoundError:
        raise TokenError(f"This sidecar has no service account token: {path} does not exist. {_REMEDY}.") from None
    except OSError as error:
        message = error.strerror or type(error).__name__
        raise TokenError(f"The service account token {path} cannot be read: {message}.") from None
    token = data.strip()
    if not token or len(data) > MAX_TOKEN or not token.isascii() or not all(0x21 <= byte <= 0x7E for byte in token):
        raise TokenError(f"{path} does not contain a service account token. {_REMEDY}.")
    return token.decode("ascii")

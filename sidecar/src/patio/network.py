"""Why a call over HTTP failed: by cause, never by the class of a library's error. Pure.

`cause_of` looks at the error that the system or TLS raised, however often libraries wrapped it: httpx makes one
ConnectError of nearly all of them. Only a refused connection means that nothing listens; all other causes leave open
what the other side has and does. Used where engines and routers are asked.
"""

from __future__ import annotations

import errno
import socket
import ssl
import traceback
from enum import StrEnum

import anyio
import httpx

from patio_protocol.error_text import causes, error_message


class Cause(StrEnum):
    """Why there was no answer."""

    REFUSED = "refused"
    """Nothing listens there: the port is closed, or the socket's file is not there."""
    TLS = "tls"
    """Who listens there could not prove who it is, or does not speak TLS as we do."""
    NAME = "name"
    """The host's name was not found, or no name server answered."""
    OUR_LIMIT = "our limit"
    """This process has no descriptor, port, memory or connection left: the other side was never asked."""
    TIMED_OUT = "timed out"
    BROKEN = "broken"
    """It was there, and the exchange broke off."""
    UNREACHABLE = "unreachable"
    """The network, or who may open a socket, is in the way."""
    UNSENDABLE = "unsendable"
    """The request cannot be sent as it is."""


INCONCLUSIVE = frozenset({Cause.TLS, Cause.OUR_LIMIT, Cause.UNSENDABLE})
"""Causes that say nothing of whether the other side is up: it is, or was not asked."""
_REFUSED = frozenset({errno.ECONNREFUSED, errno.ENOENT})
_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})
"""What a machine without IPv6 says of `::1`: where the other address of a name refuses, nothing can listen on this."""
_LOCAL_LIMITS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_BROKEN = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED})


def cause_of(error: BaseException) -> Cause:
    """Return the cause of an error that httpx, or what it is built on, raised."""
    if isinstance(error, httpx.PoolTimeout):
        return Cause.OUR_LIMIT
    if isinstance(error, httpx.LocalProtocolError | httpx.InvalidURL | httpx.UnsupportedProtocol | UnicodeError):
        return Cause.UNSENDABLE
    chain = causes(error)
    # `TimeoutError` is an `OSError` too, so a timeout of ours is checked first.
    if isinstance(error, httpx.TimeoutException) or (isinstance(error, TimeoutError) and error.errno is None):
        return Cause.TIMED_OUT
    # A stream ends while it is opened only during a handshake.
    ended = isinstance(error, httpx.ConnectError) and any(isinstance(cause, anyio.EndOfStream) for cause in chain)
    if ended or any(isinstance(cause, ssl.SSLError) for cause in chain):
        return Cause.TLS
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return Cause.NAME
    if any(isinstance(cause, OSError) and _is_lookup_error(cause) for cause in chain):
        return Cause.OUR_LIMIT
    codes = {cause.errno for cause in chain if isinstance(cause, OSError) and cause.errno is not None}
    if isinstance(error, httpx.ConnectError | OSError) and codes & _REFUSED and codes <= _REFUSED | _NO_SUCH_ADDRESS:
        return Cause.REFUSED
    if codes & _LOCAL_LIMITS:
        return Cause.OUR_LIMIT
    if errno.ETIMEDOUT in codes:
        return Cause.TIMED_OUT
    if isinstance(error, httpx.ConnectError) and not codes & _BROKEN:
        return Cause.UNREACHABLE
    return Cause.BROKEN


def _is_lookup_error(error: OSError) -> bool:
    """Tell whether `getaddrinfo` raised it, as the system's error and not as `gaierror`.

    glibc (2.36) does so when it cannot open its files or a socket, with whatever errno was there: EBUSY and EINVAL
    were seen without a free descriptor, as well as EMFILE.
    """
    return any(frame.f_code.co_name == "getaddrinfo" for frame, _ in traceback.walk_tb(error.__traceback__))


def call_message(where: str, path: str, error: BaseException) -> str:
    """Return the sentence that says why there was no answer; `where` is who was called: `the engine at http://e`."""
    message, subject = error_message(error), where[0].upper() + where[1:]
    match cause_of(error):
        case Cause.TLS:
            return f"{subject} listens, but the TLS connection failed: {message}."
        case Cause.NAME:
            return f"The host name of {where} was not found: {message}."
        case Cause.OUR_LIMIT:
            return f"The sidecar reached one of its limits and could not call {where}: {message}."
        case Cause.TIMED_OUT:
            return f"{subject} did not answer {path} in time."
        case Cause.UNREACHABLE:
            return f"{subject} could not be reached: {message}."
        case Cause.UNSENDABLE:
            return f"The sidecar cannot send {path} to {where}: {message}."
        case Cause.REFUSED:
            return f"{subject} is not up: nothing listens there."
        case Cause.BROKEN:
            return f"{subject} closed the connection during {path}: {message}."

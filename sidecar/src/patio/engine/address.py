"""Where an engine listens, as users and injection write it: a URL, or a Unix socket. Pure.

`settings` rejects with it what is not an address; `clients` and the engines ask at what it returns.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

UNIX = "unix://"
LONGEST_SOCKET = 107
"""Bytes of a socket's path that Linux takes."""
_URL = re.compile(r"[\x21-\x7e]+")
_HOST = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_NETLOC = re.compile(r"(https?://)([^/\[\]@]*:[^/\[\]@]*:[^/\[\]@]*)(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class EngineAddress:
    """Where to ask."""

    shown: str
    """As reports and messages have it."""
    base_url: str
    """What requests begin with."""
    socket: str | None = None
    """Path of the Unix socket through which they go."""

    @property
    def tls(self) -> bool:
        """Whether it is asked over TLS."""
        return self.base_url.lower().startswith("https://")

    @property
    def host(self) -> str:
        """The host, without brackets; empty for a socket."""
        return "" if self.socket is not None else urlsplit(self.base_url).hostname or ""

    @property
    def is_loopback(self) -> bool:
        """Whether only this pod is there."""
        if self.socket is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def read_address(text: str) -> EngineAddress:
    """Return the address; raise `ValueError`.

    An IPv6 address may be without its brackets, since Kubernetes puts it so into `http://$(POD_IP):8000`; what
    stands behind its last colon is the port then.
    """
    if not _URL.fullmatch(text):
        raise ValueError("it has characters that are not allowed in a URL")
    if text.lower().startswith(UNIX):
        path = text[len(UNIX) :]
        if not path.startswith("/") or path.endswith("/") or len(path) > LONGEST_SOCKET:
            raise ValueError(f"a Unix socket is unix:///absolute/path of at most {LONGEST_SOCKET} bytes")
        return EngineAddress(UNIX + path, "http://localhost", path)
    url = _bracketed(text).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError("it is not a URL with http or https and a host")
    if parts.query or parts.fragment or "?" in url or "#" in url or parts.username is not None:
        raise ValueError("it has a query, a fragment or a user")
    if ":" not in parts.hostname and not _HOST.fullmatch(parts.hostname):
        raise ValueError("its host is not a valid host name")
    return EngineAddress(url, url)


def _bracketed(url: str) -> str:
    match = _NETLOC.fullmatch(url)
    if match is None:
        return url
    scheme, host, rest = match.groups()
    address, _, port = host.rpartition(":")
    if _is_ipv6(address) and port.isdecimal():
        return f"{scheme}[{address}]:{port}{rest}"
    return f"{scheme}[{host}]{rest}" if _is_ipv6(host) else url


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False

"""Addresses that no source has: those of the machine that a pod runs on, where its metadata and credentials are. Pure.

A host is written in many ways (`169.254.169.254`, `2852039166`, `0xa9fea9fe`, `[::ffff:169.254.169.254]`), and a name
may stand for any of them; so a URL's host is looked at before it is asked, and each address again when it is resolved.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NEVER = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",
        "fe80::/10",
        "fd00:ec2::/32",  # AWS: metadata and pod identity
        "100.100.100.200/32",  # Alibaba Cloud: metadata
        "192.0.0.192/32",  # Oracle Cloud: metadata
    )
)
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")


def address_of(host: str) -> Address | None:
    """Return the address that a host's text is, in whatever spelling; None for a name."""
    text = host.strip("[]").partition("%")[0]
    try:
        return _plain(ipaddress.ip_address(text))
    except ValueError:
        pass
    try:
        # As the C library reads it, which connects in the end: decimal, octal, hex, short forms.
        return ipaddress.IPv4Address(socket.inet_aton(text))
    except (OSError, ValueError):
        return None


def is_never_asked(host: str) -> bool:
    """Whether a host's text is an address that no source has."""
    address = address_of(host)
    return address is not None and any(address in network for network in _NEVER)


def is_loopback(host: str) -> bool:
    """Whether a host's text is this pod itself."""
    address = address_of(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def is_in(host: str, networks: str) -> bool:
    """Whether a host's text is an address in one of the networks of a NO_PROXY variable."""
    address = address_of(host)
    if address is None:
        return False
    for part in networks.split(","):
        try:
            if "/" in part and address in ipaddress.ip_network(part.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def host_of(url: str) -> str:
    """Return the host of a URL."""
    return urlsplit(url).hostname or ""


def in_clear(url: str) -> bool:
    """Whether what is sent to a URL can be read on its way."""
    return url.lower().startswith("http://") and not is_loopback(host_of(url))


def _plain(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _TRANSLATED:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address.sixtofour or address

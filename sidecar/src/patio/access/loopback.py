"""Which calls from the pod's own loopback need no proof: those that only a program of the pod can have meant. Pure.

Two others call from there without meaning to. An engine fetches addresses that its users write into requests
(`image_url`), by GET. A browser beside `kubectl port-forward` lets any page send GET, and POST as text or as a form;
with another method or `Content-Type: application/json` it asks first, and the sidecar does not consent. A page whose
name was pointed at 127.0.0.1 need not ask, but its name is in the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

CHANGES = frozenset({"POST", "PUT", "DELETE"})
JSON = "application/json"
OF_A_MESH = "127.0.0.6"
"""From where Istio's proxy hands on what came from outside the pod."""
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]*)(?::\d*)?")


@lru_cache(maxsize=256)
def address_of(peer: str | None) -> str | None:
    """Return the address of a peer, an IPv4 one that came through an IPv6 socket as what it is."""
    try:
        address = ip_address(peer or "")
    except ValueError:
        return peer
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return peer


@lru_cache(maxsize=256)
def is_loopback(peer: str | None) -> bool:
    """Whether an address is one from which only programs of the pod call."""
    address = address_of(peer)
    try:
        return ip_address(address or "").is_loopback and address != OF_A_MESH
    except ValueError:
        return False


def is_meant(method: str, content_types: Sequence[str], hosts: Sequence[str]) -> bool:
    """Whether a call from loopback is one that neither a fetched address nor a web page can be.

    Args:
        method: as it came; methods are spelt in capitals.
        content_types: the values of all Content-Type headers.
        hosts: the values of all Host headers.

    """
    if method not in CHANGES or len(content_types) != 1:
        return False
    if content_types[0].partition(";")[0].strip().lower() != JSON:
        return False
    return all(map(_is_local, hosts))


def _is_local(host: str) -> bool:
    """Whether no name server of a stranger's can have made this Host: an address, or a name without a dot."""
    match = _HOST.fullmatch(host.strip().lower())
    if match is None:
        return False
    name = match[1]
    if "." not in name or name.endswith(".localhost"):
        return True
    try:
        ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True

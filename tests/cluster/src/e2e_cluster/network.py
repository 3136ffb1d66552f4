"""The network of a local cluster: one private range, an interface for the node, and the rules around it.

Pods get their addresses and a point-to-point link from the CNI plugin `ptp`, so all their traffic is routed
by this machine, where kube-proxy's rules see it. The node's address sits on an interface of its own and the
Services' range is routed there, so that neither depends on the machine's own network. A small nftables
table keeps pods from sending anything beyond the range. Everything here can be removed by name, whatever
state it is in.
"""

import ipaddress
import json
import os
import subprocess
from typing import Any

from e2e_cluster.errors import ClusterError
from e2e_cluster.packages import system_path

RANGE = ipaddress.IPv4Network("10.213.0.0/16")
NODE = "10.213.0.1"
PODS = "10.213.1.0/24"
POD_GATEWAY = "10.213.1.1"
SERVICES = "10.213.128.0/20"
KUBERNETES_SERVICE = "10.213.128.1"
DNS_SERVICE = "10.213.128.10"
# A bridge without ports: some kernels lack the dummy interface that would say the same.
INTERFACE = "patio0"
GUARD = ("inet", "patio-cluster")
TABLES = (GUARD, ("ip", "kube-proxy"), ("ip6", "kube-proxy"))


def raise_network() -> None:
    """Make the interface, the route to Services, and the guard."""
    if strangers := strangers_in_range(_addresses() or "[]"):
        raise ClusterError(f"the cluster needs {RANGE}, which {', '.join(strangers)} of this machine uses")
    _run("ip", "link", "add", INTERFACE, "type", "bridge")
    _run("ip", "address", "add", f"{NODE}/32", "dev", INTERFACE)
    _run("ip", "link", "set", INTERFACE, "up")
    _run("ip", "route", "add", SERVICES, "dev", INTERFACE, "src", NODE)
    family, table = GUARD
    _run(
        "nft",
        f"table {family} {table} {{ chain forward {{ type filter hook forward priority 0; policy accept; "
        f"ip saddr {PODS} ip daddr != {RANGE} reject; }}; }}",
    )


def lower_network() -> None:
    """Remove our interfaces and tables, as far as they exist."""
    for name in leftover_interfaces():
        delete_link(name)
    for family, table in leftover_tables():
        _try("nft", "delete", "table", family, table)


def leftover_interfaces() -> list[str]:
    """Our interface, and this machine's ends of the pods' links."""
    return [] if (listed := _addresses()) is None else own_links(listed)


def own_links(addresses: str) -> list[str]:
    """Which interfaces of ``ip -json -details address`` are a cluster's."""
    return [link["ifname"] for link in json.loads(addresses) if _is_own_link(link)]


def links() -> list[str]:
    """The names of this machine's interfaces."""
    return [link["ifname"] for link in json.loads(_addresses() or "[]")]


def links_in(wanted: ipaddress.IPv4Network) -> list[str]:
    """This machine's interfaces with an address in a range."""
    return links_of(_addresses() or "[]", wanted)


def links_of(addresses: str, wanted: ipaddress.IPv4Network) -> list[str]:
    """Which interfaces of ``ip -json -details address`` have an address in a range."""
    return [link["ifname"] for link in json.loads(addresses) if any(address in wanted for address in _ipv4(link))]


def delete_link(name: str) -> None:
    """Remove an interface, if it is there."""
    _try("ip", "link", "delete", name)


def strangers_in_range(addresses: str) -> list[str]:
    """Which other interfaces use the range that a cluster needs."""
    return [
        link["ifname"]
        for link in json.loads(addresses)
        if not _is_own_link(link) and any(address in RANGE for address in _ipv4(link))
    ]


def _is_own_link(link: dict[str, Any]) -> bool:
    if link.get("ifname") == INTERFACE:
        return True
    kind = link.get("linkinfo", {}).get("info_kind")
    return kind == "veth" and POD_GATEWAY in map(str, _ipv4(link))


def _ipv4(link: dict[str, Any]) -> list[ipaddress.IPv4Address]:
    found = (address for address in link.get("addr_info", ()) if address.get("family") == "inet")
    return [ipaddress.IPv4Address(address["local"]) for address in found]


def _addresses() -> str | None:
    return _try("ip", "-json", "-details", "address", "show")


def leftover_tables() -> list[tuple[str, str]]:
    """Which of our nftables tables exist."""
    listed = _try("nft", "--json", "list", "tables")
    return [] if listed is None else [table for table in TABLES if table in parse_tables(listed)]


def parse_tables(listed: str) -> set[tuple[str, str]]:
    """The families and names in ``nft --json list tables``."""
    entries = (entry.get("table") for entry in json.loads(listed)["nftables"])
    return {(entry["family"], entry["name"]) for entry in entries if entry}


def _try(*command: str) -> str | None:
    """A command's output; None if it fails or does not exist (then nothing of ours can either)."""
    try:
        return _run(*command)
    except (ClusterError, FileNotFoundError):
        return None


def _run(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "PATH": system_path()}
    )
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout

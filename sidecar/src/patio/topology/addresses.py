"""Where the router is: DNS names as both generations of RoleBasedGroup give them, and the group's topology file.

Pure: names and parsed YAML in, base URLs out. `settings` reads variables and the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
LONGEST_NAME = 63
"""RoleBasedGroup cuts the names of workloads and Services to this, and trims dashes at their end."""


def pod_names(group: str, role: str, index: str, port: int) -> tuple[str, ...]:
    """Return the base URLs under which one pod of a role may be found.

    Services are called `s-G-R` since RoleBasedGroup 0.5, and `G-R` before.
    """
    workload = _cut(f"{group}-{role}")
    pod = f"{workload}-{index}"
    return tuple(f"http://{pod}.{service}:{port}" for service in (_cut(f"s-{group}-{role}"), workload))


def listed(topology: object, role: str | None, port: int | None) -> tuple[str, ...]:
    """Return the base URL of every instance of the router's role in a topology file (`/etc/rbg/config.yaml`).

    Args:
        topology: The parsed file, `{roles: {R: {instances: [{address, ports: {http: 8000}}]}}}`.
        role: The router's role; None is `router`.
        port: The router's port; None takes the one that the file lists, `http` if there are several.

    Raises:
        ValueError: The file does not have it; the message says what is missing.
    """
    name = role or "router"
    roles = _mapping(topology).get("roles")
    role_entry = _mapping(roles).get(name)
    if role_entry is None:
        raise ValueError(f"it lists no role {name!r} (ROUTER_ROLE_NAME)")
    instances = _mapping(role_entry).get("instances")
    if not isinstance(instances, list) or not instances:
        raise ValueError(f"it lists no instance of role {name!r}")
    return tuple(_instance_url(_mapping(instance), name, port) for instance in instances)


def host_url(host: str, port: int, scheme: str = "http") -> str:
    """Return the base URL of a host name or address of either family."""
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _instance_url(instance: Mapping[str, object], role: str, port: int | None) -> str:
    address = instance.get("address")
    if not isinstance(address, str) or not _HOST.fullmatch(address):
        raise ValueError(f"an instance of role {role!r} has no address")
    if port is None:
        ports = _mapping(instance.get("ports"))
        chosen = ports.get("http") if "http" in ports or len(ports) != 1 else next(iter(ports.values()))
        if not isinstance(chosen, int) or isinstance(chosen, bool) or not 0 < chosen < 65536:
            raise ValueError(f"it lists no port of role {role!r}: set ROUTER_PORT")
        port = chosen
    return host_url(address, port)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _cut(name: str) -> str:
    return name[:LONGEST_NAME].rstrip("-")

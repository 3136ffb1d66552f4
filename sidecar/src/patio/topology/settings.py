"""A sidecar's place in the topology: its role, the router, the worker that it stands for; and the flags and variables
that tell them, in every way in which users may say it.

Where `--instance-info` and RoleBasedGroup's variables come from is `docs/concepts/topology.md`; `addresses` makes
addresses of names. Reads the topology file, and nothing else. Keys are in no repr.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from patio.engine.settings import read_key
from patio.topology.addresses import host_url, listed, pod_names
from patio.topology.registered_worker import InstanceInfo, Worker, read_instance_info
from patio.variables import SettingsError, single_value


class Role(StrEnum):
    """On which side of the topology a sidecar stands."""

    CLIENT = "client"
    """Beside an engine: keeps it registered."""
    SERVER = "server"
    """Beside a router, and beside no engine: keeps leases, and the router's list in step with them."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One router, or one sidecar beside a router."""

    urls: tuple[str, ...]
    """Base URLs that it may answer at, best first: upstream named its Services in two ways."""
    may_be_server: bool = False
    """It is asked whether it is a sidecar with leases."""

    @property
    def name(self) -> str:
        """What it is called in reports."""
        return self.urls[0]


@dataclass(frozen=True, slots=True)
class TopologySettings:
    """What a sidecar does about routers; nothing, unless `enabled`."""

    enabled: bool = False
    not_configured: str = ""
    """A topology is asked for and nothing names a router: what to set. Not `enabled` then."""
    role: Role = Role.CLIENT
    endpoints: tuple[Endpoint, ...] = ()
    """Client: where to register. Server: the router beside it, one."""
    worker: Worker | None = None
    """Client: what to register."""
    lease_id: str = ""
    """Client: under which name it leases, the pod's."""
    heartbeat: float = 30.0
    """Seconds."""
    router_key: str | None = field(default=None, repr=False)
    lease_file: Path | None = None
    """Server: where leases outlive the sidecar."""

    @property
    def is_server(self) -> bool:
        """Whether this sidecar stands beside a router instead of an engine."""
        return self.enabled and self.role is Role.SERVER


VARIABLES = {
    "TOPO_TYPE": "sglang (sglang-router and smg) or none; default none",
    "TOPO_ROLE": "client beside an engine, server beside a router; default client",
    "TOPO_REGISTER_ENDPOINT": "base URL of the router, or of a sidecar with TOPO_ROLE=server",
    "TOPO_CONFIG_FILE": "the group's topology file (/etc/rbg/config.yaml), which lists the router",
    "ROUTER_ROLE_NAME": "the router's role in the group, to find the router by DNS or in the file",
    "SGL_ROUTER_ROLE_NAME": "the same, as the original Patio names it",
    "ROUTER_PORT": "the router's port",
    "SGL_ROUTER_PORT": "the same, as the original Patio names it",
    "SGL_ROUTER_API_KEY": "the router's --api-key",
    "HEARTBEAT_INTERVAL": "seconds within which the sidecar notices a lost registration; default 30",
    "GROUP_NAME": "name of the RoleBasedGroup; also RBG_GROUP_NAME",
    "RBG_GROUP_NAME": "the same, under the name of RoleBasedGroup 0.7",
    "ROLE_NAME": "this pod's role in it; also RBG_ROLE_NAME",
    "RBG_ROLE_NAME": "the same, under the name of RoleBasedGroup 0.7",
    "ROLE_INDEX": "this pod's index in the role; also RBG_ROLE_INDEX",
    "RBG_ROLE_INDEX": "the same, under the name of RoleBasedGroup 0.7",
    "INSTANCE_NAME": "this pod's instance; its number takes precedence over the index; also RBG_ROLE_INSTANCE_NAME",
    "RBG_ROLE_INSTANCE_NAME": "the same, under the name of RoleBasedGroup 0.7",
}
_ROUTER_ROLE = ("ROUTER_ROLE_NAME", "SGL_ROUTER_ROLE_NAME")
_ROUTER_PORT = ("ROUTER_PORT", "SGL_ROUTER_PORT")
_WHERE = ("TOPO_REGISTER_ENDPOINT", "TOPO_CONFIG_FILE", *_ROUTER_ROLE)
_OFF = ("none", "off")
_TYPES = ("sglang",)
DEFAULT_HEARTBEAT = 30.0
MOST_ROUTERS = 64
LARGEST_FILE = 2**20
"""Bytes of a topology file: as many as a ConfigMap may have."""
LEASE_FILE = "leases.json"
NOT_CONFIGURED = (
    "TOPO_TYPE is set, but nothing names a router, so this engine is not registered: set TOPO_REGISTER_ENDPOINT, or "
    "ROUTER_ROLE_NAME and ROUTER_PORT for a role of the group, or TOPO_CONFIG_FILE, or TOPO_TYPE=none"
)
"""Upstream's sample has TOPO_TYPE in a profile and a group without a router: such pods serve all the same."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What is known of the pod without this module."""

    engine_endpoint: str
    name: str
    namespace: str
    ip: str
    state_folder: Path
    api_key: str | None


def read_topology(instance_info: str | None, env: Mapping[str, str], pod: Pod) -> TopologySettings:
    """Return the settings; raise `SettingsError`."""
    info = _instance_info(instance_info)
    kind = env.get("TOPO_TYPE")
    role = _role(env)
    heartbeat = _heartbeat(env)
    if kind is None:
        stray = [name for name in ("TOPO_ROLE", *_WHERE) if name in env and (name, role) != ("TOPO_ROLE", Role.CLIENT)]
        if stray:
            raise SettingsError(
                f"{', '.join(stray)} without TOPO_TYPE: set TOPO_TYPE=sglang, or none to turn the topology off"
            )
        return TopologySettings()
    if kind.lower() in _OFF:
        return TopologySettings()
    if kind.lower() not in _TYPES:
        raise SettingsError(f"TOPO_TYPE: {kind!r} is not one of {', '.join((*_TYPES, 'none'))}")
    key = read_key("SGL_ROUTER_API_KEY", env)
    if role is Role.SERVER:
        if instance_info is not None:
            raise SettingsError("--instance-info: TOPO_ROLE=server registers no engine; leave the flag out")
        return TopologySettings(
            enabled=True,
            role=role,
            endpoints=(_local_router(env),),
            heartbeat=heartbeat,
            router_key=key,
            lease_file=pod.state_folder / LEASE_FILE,
        )
    own_role, router_role = _either(env, "RBG_ROLE_NAME", "ROLE_NAME"), _either(env, *_ROUTER_ROLE)
    if own_role is not None and own_role == router_role:
        name = next(name for name in _ROUTER_ROLE if name in env)
        raise SettingsError(f"{name}: {own_role!r} is this pod's own role: beside the router, set TOPO_ROLE=server")
    _either(env, "RBG_GROUP_NAME", "GROUP_NAME")
    if not any(name in env for name in _WHERE) and _router_port(env) is None:
        return TopologySettings(not_configured=NOT_CONFIGURED)
    return TopologySettings(
        enabled=True,
        endpoints=_endpoints(env),
        worker=Worker(
            url=_worker_url(info, env, pod),
            kind=info.kind,
            bootstrap_port=info.bootstrap_port,
            extra=info.extra,
            api_key=pod.api_key,
        ),
        lease_id=_lease_id(pod),
        heartbeat=heartbeat,
        router_key=key,
    )


def _instance_info(text: str | None) -> InstanceInfo:
    if not text:
        return InstanceInfo()  # upstream's default is an empty text
    try:
        return read_instance_info(text)
    except ValueError as error:
        raise SettingsError(f"--instance-info: {error}") from None


def _role(env: Mapping[str, str]) -> Role:
    value = env.get("TOPO_ROLE", Role.CLIENT.value)
    try:
        return Role(value.lower())
    except ValueError:
        raise SettingsError(f"TOPO_ROLE: {value!r} is not one of {', '.join(Role)}") from None


def _heartbeat(env: Mapping[str, str]) -> float:
    value = env.get("HEARTBEAT_INTERVAL")
    if value is None:
        return DEFAULT_HEARTBEAT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1200:
        raise SettingsError(f"HEARTBEAT_INTERVAL: {value!r} is not a number of seconds up to 1200")
    return seconds


def _endpoints(env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    routers = _routers(env)
    if len(routers) > MOST_ROUTERS:
        name = "TOPO_REGISTER_ENDPOINT" if "TOPO_REGISTER_ENDPOINT" in env else "TOPO_CONFIG_FILE"
        raise SettingsError(f"{name}: {len(routers)} routers are named, and the limit is {MOST_ROUTERS}")
    return routers


def _routers(env: Mapping[str, str]) -> tuple[Endpoint, ...]:
    if (endpoint := env.get("TOPO_REGISTER_ENDPOINT")) is not None:
        urls = dict.fromkeys(_base_url(part.strip()) for part in endpoint.split(",") if part.strip())
        return tuple(Endpoint((url,), may_be_server=True) for url in urls)
    role, port = _either(env, *_ROUTER_ROLE), _router_port(env)
    group = _either(env, "RBG_GROUP_NAME", "GROUP_NAME")
    by_name = role is not None and port is not None and group is not None
    if (file := env.get("TOPO_CONFIG_FILE")) is not None and (Path(file).exists() or not by_name):
        return tuple(Endpoint((url,)) for url in _from_file(Path(file), role, port))
    if role is None or port is None or group is None:
        missing = [
            name
            for name, value in (("ROUTER_ROLE_NAME", role), ("ROUTER_PORT", port), ("GROUP_NAME", group))
            if value is None
        ]
        raise SettingsError(
            f"TOPO_TYPE: nothing names the router without {', '.join(missing)}: set them, or "
            "TOPO_REGISTER_ENDPOINT, or TOPO_CONFIG_FILE"
        )
    return (Endpoint(pod_names(group, role, "0", port)),)


def _local_router(env: Mapping[str, str]) -> Endpoint:
    """Return the router that this sidecar stands beside."""
    if (endpoint := env.get("TOPO_REGISTER_ENDPOINT")) is not None:
        return Endpoint((_base_url(endpoint),))
    port = _router_port(env)
    if port is None:
        raise SettingsError("TOPO_ROLE: a server needs the router's port on this pod: set ROUTER_PORT")
    return Endpoint((f"http://127.0.0.1:{port}",))


def _from_file(path: Path, role: str | None, port: int | None) -> tuple[str, ...]:
    import yaml  # only those who have such a file pay for the parser

    class Loader(yaml.SafeLoader):
        """Without aliases, by which a short text becomes a large one; no topology file needs them."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has aliases (*name), which the sidecar does not read")
            return super().compose_node(parent, index)

    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes")
        return listed(yaml.load(content, Loader), role, port)  # noqa: S506 - it is a safe loader
    except OSError as error:
        raise SettingsError(f"TOPO_CONFIG_FILE: {path}: {error.strerror or error}") from None
    except RecursionError:
        raise SettingsError(f"TOPO_CONFIG_FILE: {path}: it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"TOPO_CONFIG_FILE: {path} is not YAML: {' '.join(str(error).split())[:500]}") from None
    except ValueError as error:
        raise SettingsError(f"TOPO_CONFIG_FILE: {path}: {error}") from None


def _worker_url(info: InstanceInfo, env: Mapping[str, str], pod: Pod) -> str:
    engine = urlsplit(pod.engine_endpoint)
    if engine.scheme == "unix" and info.port is None:
        raise SettingsError(
            f"TOPO_TYPE: no router can reach the engine at {pod.engine_endpoint}: make the engine listen on a port, "
            "and name the port with --instance-info"
        )
    port = info.port or engine.port or (443 if engine.scheme == "https" else 80)
    if pod.ip:
        return host_url(pod.ip, port, "http" if engine.scheme == "unix" else engine.scheme)
    group, role = _either(env, "RBG_GROUP_NAME", "GROUP_NAME"), _either(env, "RBG_ROLE_NAME", "ROLE_NAME")
    index = _index(env)
    if group is None or role is None or index is None:
        raise SettingsError(
            "POD_IP: the router needs the address of this engine: set POD_IP from status.podIP, or set GROUP_NAME, "
            "ROLE_NAME and ROLE_INDEX"
        )
    return pod_names(group, role, index, port)[0]


def _index(env: Mapping[str, str]) -> str | None:
    """Return the pod's index in its role.

    RoleBasedGroup up to 0.8 gives all pods made in one pass the last RBG_ROLE_INDEX; the instance's name is right.
    """
    instance = env.get("RBG_ROLE_INSTANCE_NAME", env.get("INSTANCE_NAME", ""))
    if number := re.search(r"\d+$", instance):
        return number.group()
    return env.get("ROLE_INDEX", env.get("RBG_ROLE_INDEX"))


def _lease_id(pod: Pod) -> str:
    name = ".".join(part for part in (pod.name, pod.namespace) if part) or pod.ip or "unnamed"
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def _router_port(env: Mapping[str, str]) -> int | None:
    # Kubernetes puts tcp://... into every pod of a namespace with a Service named `router` or `sgl-router`: it is
    # not a setting.
    ports = {
        name: env[name]
        for name in _ROUTER_PORT
        if name in env and not env[name].startswith(("tcp://", "udp://", "sctp://"))
    }
    for name, value in ports.items():
        if not value.isascii() or not value.isdecimal() or not 0 < int(value) < 65536:
            raise SettingsError(f"{name}: {value!r} is not a port")
    port = _either(ports, *_ROUTER_PORT)
    return None if port is None else int(port)


def _base_url(value: str) -> str:
    name = "TOPO_REGISTER_ENDPOINT"
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username:
        raise SettingsError(f"{name}: not a base URL like http://router:30000")
    return url.rstrip("/")


def _either(env: Mapping[str, str], *names: str) -> str | None:
    """Return the value of any of some names; they must not disagree."""
    setting = single_value(env, *names)
    return None if setting is None else setting[1]

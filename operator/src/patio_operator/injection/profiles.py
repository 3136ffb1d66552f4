"""A profile's containers and volumes in the pod: appended, or completed where they are there already.

Called by `admission` for one profile after the other. They may be there already because upstream's
controller rendered them into the template, or because this is not the pod's first admission; then what is
missing is added and what is there stays. A container, volume or port of that name that is not the profile's
is a clash.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from patio_api.profile import ClusterEngineRuntimeProfile
from patio_operator.injection.types import Container, InjectionError, Pod, Runtime, containers_of, runs_beside

_LISTS = (("initContainers", "init_containers"), ("containers", "containers"))
_OVERRIDABLE = ("name", "env", "args", "image", "resources", "ports")
_PROBES = ("readinessProbe", "livenessProbe", "startupProbe")
SIDECAR_PORT_NAME = "patio"


def revision(profile: ClusterEngineRuntimeProfile) -> str:
    """Return a short hash of what the profile adds to a pod."""
    content = profile.spec.to_api()
    content.pop("updateStrategy", None)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:10]


@dataclass(frozen=True)
class Effective:
    """A profile's containers with the role's overrides."""

    init_containers: tuple[Container, ...]
    containers: tuple[Container, ...]
    warnings: tuple[str, ...]

    @property
    def all(self) -> tuple[Container, ...]:
        """Both lists."""
        return (*self.init_containers, *self.containers)


def effective(runtime: Runtime) -> Effective:
    """Apply the overrides: env replaces by name, args are appended, image and resources replace."""
    spec = runtime.profile.spec
    lists = {attribute: copy.deepcopy(getattr(spec, attribute)) for _, attribute in _LISTS}
    by_name = {container["name"]: container for containers in lists.values() for container in containers}
    warnings: list[str] = []
    for override in runtime.overrides:
        container = by_name.get(override["name"])
        if container is None:
            raise InjectionError(
                f"engineRuntimes overrides a container {override['name']!r}, but profile {runtime.name!r} has "
                f"{_listed(by_name)}: correct the name"
            )
        ignored = sorted(key for key in override if key not in _OVERRIDABLE)
        if ignored:
            warnings.append(
                f"override of container {override['name']!r} of profile {runtime.name!r}: {', '.join(ignored)} "
                "ignored (env, args, image, resources and ports can be overridden)"
            )
        if override.get("env"):
            container["env"] = replaced(container.get("env") or [], copy.deepcopy(override["env"]))
        if override.get("args"):
            container["args"] = [*(container.get("args") or []), *override["args"]]
        for key in ("image", "resources"):
            if override.get(key):
                container[key] = copy.deepcopy(override[key])
        for port in override.get("ports") or []:
            _move_port(container, port["name"], port["containerPort"], f"profile {runtime.name!r}")
    return Effective(lists["init_containers"], lists["containers"], tuple(warnings))


def _move_port(container: Container, name: str, number: int, source: str) -> None:
    """Give a container's port another number, in its probes too; Patio's sidecar gets it as the port to listen on."""
    ports = container.get("ports") or []
    port = next((port for port in ports if port.get("name") == name), None)
    if port is None:
        existing = _listed([str(port.get("name") or port["containerPort"]) for port in ports])
        raise InjectionError(
            f"engineRuntimes overrides a port {name!r} of container {container['name']!r}, which has {existing} in "
            f"{source}: correct the name"
        )
    before = port["containerPort"]
    port["containerPort"] = number
    if port.get("hostPort") == before:
        port["hostPort"] = number
    for probe in _PROBES:
        for action in (container.get(probe) or {}).values():
            if isinstance(action, dict) and action.get("port") == before:
                action["port"] = number
    has_port_flag = any(re.match(r"--port(=|$)|-P", word) for word in container.get("args") or [])
    if name == SIDECAR_PORT_NAME and not has_port_flag:
        container["args"] = [*(container.get("args") or []), f"--port={number}"]


def replaced(env: Sequence[Mapping[str, Any]], by: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace variables by name where they stand; append those that are new."""
    result = {variable["name"]: dict(variable) for variable in env}
    result.update((variable["name"], dict(variable)) for variable in by)
    return list(result.values())


def add(
    pod: Pod,
    runtime: Runtime,
    wanted: Effective,
    origins: dict[str, str],
    volume_origins: dict[str, str],
    *,
    injected_before: bool,
) -> list[str]:
    """Put a profile's volumes and containers into the pod.

    Args:
        pod: the pod; changed.
        runtime: the profile.
        wanted: its containers.
        origins: by container name, which profile of this admission put it there; added to.
        volume_origins: the same by the name of a volume.
        injected_before: the pod was injected with this profile before: what it has of it is left as it is.

    Returns:
        What its owner should know: containers that upstream rendered and that are not what the profile has now.

    """
    source = f"profile {runtime.name!r}"
    spec = pod["spec"]
    warnings: list[str] = []
    if not injected_before:
        for volume in runtime.profile.spec.volumes:
            _add_volume(spec, volume, source, volume_origins)
    for key, attribute in _LISTS:
        others = {container["name"] for other, _ in _LISTS if other != key for container in spec.get(other) or []}
        for container in getattr(wanted, attribute):
            name = container["name"]
            if name in origins:
                raise InjectionError(f"{source} and {origins[name]} both add a container {name!r}: rename one of them")
            if name in others:
                raise InjectionError(
                    f"{source} adds {name!r} to {key}, but the pod already has a container of that name "
                    "in its other list: rename one of them"
                )
            origins[name] = source
            present = next((existing for existing in spec.get(key) or [] if existing["name"] == name), None)
            if present is None:
                spec.setdefault(key, [])
                spec[key] = [*(spec[key] or []), copy.deepcopy(container)]
            elif not injected_before:
                base = next(
                    declared for declared in getattr(runtime.profile.spec, attribute) if declared["name"] == name
                )
                difference = _difference(present, container, base, source)
                if difference is not None and not runtime.rendered:
                    raise InjectionError(f"{difference}: rename one of them")
                if difference is not None:
                    warnings.append(
                        f"{difference}: Patio adds what is missing, and changes nothing else that upstream's "
                        f"controller made"
                    )
                _complete(present, container, base, as_is=difference is not None)
    return warnings


def _add_volume(spec: dict[str, Any], volume: Mapping[str, Any], source: str, origins: dict[str, str]) -> None:
    name = volume["name"]
    present = next((volume for volume in spec.get("volumes") or [] if volume["name"] == name), None)
    if present is None:
        spec["volumes"] = [*(spec.get("volumes") or []), copy.deepcopy(dict(volume))]
        origins[name] = source
    elif present.keys() != volume.keys() or not _holds(present, volume):
        raise InjectionError(
            f"{source} has a volume {name!r} ({_kind(volume)}), but {origins.get(name, 'the pod')} has another volume "
            f"of that name ({_kind(present)}): rename one of them"
        )


def _kind(volume: Mapping[str, Any]) -> str:
    return next((key for key in volume if key != "name"), "emptyDir")


def _complete(present: Container, wanted: Container, base: Mapping[str, Any], *, as_is: bool) -> None:
    """Add to a container that is there what the profile's has and it lacks; unless `as_is` override it too."""
    if not as_is:
        present.update((key, copy.deepcopy(wanted[key])) for key in ("image", "args", "resources") if key in wanted)
        changed = [variable for variable in wanted.get("env") or [] if variable not in (base.get("env") or [])]
        if changed:  # what the role overrides; what the profile itself says may have been changed in the template
            present["env"] = replaced(present.get("env") or [], copy.deepcopy(changed))
    port_names = {_port_name(port) for port in present.get("ports") or []} - {None}
    for key, identity in (("env", _variable), ("volumeMounts", _path), ("ports", _port)):
        present_keys = {identity(item) for item in present.get(key) or []}
        missing = [copy.deepcopy(item) for item in wanted.get(key) or [] if identity(item) not in present_keys]
        if key == "ports":
            missing = [item for item in missing if _port_name(item) not in port_names]
        if missing:
            present[key] = [*(present.get(key) or []), *missing]


def _variable(variable: Mapping[str, Any]) -> Any:
    return variable["name"]


def _path(mount: Mapping[str, Any]) -> Any:
    return mount["mountPath"].rstrip("/")


def _port(port: Mapping[str, Any]) -> Any:
    return int(port["containerPort"]), port.get("protocol") or "TCP"


def _difference(present: Container, wanted: Container, base: Mapping[str, Any], source: str) -> str | None:
    """Say how a container of the pod is not what the profile has; None if it is, perhaps as upstream renders it."""
    name = wanted["name"]
    images = {wanted.get("image"), base.get("image")}
    if present.get("image") not in images:
        return (
            f"{source} adds a container {name!r} with image {wanted.get('image')!r}, but the pod already has one of "
            f"that name with image {present.get('image')!r}"
        )
    for key in ("command", "args"):
        actual = list(present.get(key) or [])
        if actual not in (list(wanted.get(key) or []), list(base.get(key) or [])):
            return (
                f"{source} adds a container {name!r} with {key} {wanted.get(key) or []}, but the pod already has "
                f"one of that name with {key} {actual}"
            )
    for key, identity, what in (("volumeMounts", _path, "name"), ("ports", _port_name, "containerPort")):
        wanted_items = {identity(item): item[what] for item in wanted.get(key) or []}
        for item in present.get(key) or []:
            which = identity(item)
            if which is not None and wanted_items.get(which, item[what]) != item[what]:
                return (
                    f"{source} adds a container {name!r} with {wanted_items[which]!r} as {which!r} of its "
                    f"{key}, but the pod "
                    f"already has one of that name with {item[what]!r} there"
                )
    return None


def _port_name(port: Mapping[str, Any]) -> Any:
    return port.get("name") or None


def check_ports(pod: Pod, origins: Mapping[str, str], engine_container: str, engine_port: int | None) -> None:
    """Raise when a profile's container and another one want the same port, of the pod's one network or of its node."""
    on_node = bool(pod["spec"].get("hostNetwork"))
    holders: dict[tuple[str, int, str], str] = {}
    if engine_port is not None:
        holders["port", engine_port, "TCP"] = engine_container
    for container in containers_of(pod):
        if not runs_beside(container, pod):
            continue
        for port in container.get("ports") or []:
            number, protocol = _port(port)
            keys = [("port", number, protocol)]
            if on_node and port.get("hostPort", number) != number and container["name"] in origins:
                raise InjectionError(
                    f"container {container['name']!r} of {origins[container['name']]} has port {number} and host "
                    f"port {port['hostPort']}, but with hostNetwork both must be equal: change one of them"
                )
            if port.get("hostPort") and not on_node:  # on the node's own network the two are one
                keys.append(("host port", int(port["hostPort"]), protocol))
            for key in keys:
                other = holders.setdefault(key, container["name"])
                if other != container["name"] and (other in origins or container["name"] in origins):
                    sides = " and ".join(
                        f"container {name!r} of {origins.get(name, 'the pod')}" for name in (other, container["name"])
                    )
                    raise InjectionError(f"{sides} both use {key[0]} {key[1]}/{key[2]}: change one of them")


def _holds(present: Any, wanted: Any) -> bool:
    """Whether everything wanted is there; the API server's defaults may be there as well."""
    if isinstance(wanted, Mapping):
        return isinstance(present, Mapping) and all(
            _holds(present.get(key), value) for key, value in wanted.items() if value is not None
        )
    if isinstance(wanted, list):
        return (
            isinstance(present, list)
            and len(present) == len(wanted)
            and all(
                _holds(present_item, wanted_item) for present_item, wanted_item in zip(present, wanted, strict=True)
            )
        )
    return bool(present == wanted)


def _listed(names: Iterable[str]) -> str:
    return "only " + ", ".join(repr(name) for name in names) if names else "none"

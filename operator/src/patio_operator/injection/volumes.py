"""Which files the engine and the sidecar must both see, under the same absolute path.

Called by `admission` after `profiles`. Outwards, the profile's volumes: where the profile's containers
mount them, the containers named by injectContainers mount them too; without injectContainers the engine
does, read-only, and only volumes that hold files. Inwards, what the engine mounts for `file://` and
`pvc://` sources: the sidecar mounts it read-only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patio_operator.injection.types import Container, InjectionError, Pod, Runtime

_LASTING = (
    *("persistentVolumeClaim", "hostPath", "nfs", "ephemeral"),
    *("cephfs", "azureFile", "azureDisk", "gcePersistentDisk", "awsElasticBlockStore", "iscsi", "fc", "glusterfs"),
)
_SECRETS_DRIVER = "secrets-store.csi.k8s.io"
_DIRECTORIES = ("", "Directory", "DirectoryOrCreate")
_DEVICES = ("/dev", "/proc", "/sys", "/run", "/var/run")
"""Devices and sockets, in a container and on a node."""
_PROGRAMS = ("/opt/patio", "/opt/app")
"""Where the sidecar's image has its own."""
_SYSTEM = ("/etc", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/tmp")  # noqa: S108 - paths in a container
"""What a container is made of, and its scratch space: another container's in its place would break it."""


def share(pod: Pod, runtime: Runtime, wanted: Iterable[Container], targets: Sequence[Container]) -> None:
    """Mount a profile's volumes in the containers that are to have them; changes those containers."""
    present = {volume["name"] for volume in pod["spec"].get("volumes") or []}  # all, or those of an older revision
    volumes = {volume["name"]: volume for volume in runtime.profile.spec.volumes if volume["name"] in present}
    mounts = [
        mount for container in wanted for mount in container.get("volumeMounts") or [] if mount["name"] in volumes
    ]
    by_default = not runtime.inject_containers
    at: dict[str, set[str]] = {}
    for mount in mounts:
        at.setdefault(_normal(mount["mountPath"]), set()).add(f"{mount['name']}/{mount.get('subPath', '')}")
    for container in targets:
        for mount in mounts:
            if by_default:
                shared = any(key in volumes[mount["name"]] for key in ("emptyDir", *_LASTING))
                # the profile's own containers may disagree, or make a path of variables that only they have
                one_meaning = len(at[_normal(mount["mountPath"])]) == 1 and not mount.get("subPathExpr")
                if not shared or not one_meaning or _under(mount["mountPath"], (*_DEVICES, *_SYSTEM)):
                    continue
                mount = {**_plain(mount), "readOnly": True}
            elif "hostPath" in volumes[mount["name"]] and mount.get("readOnly") is not False:
                # Who names the container is not who made the profile: a folder of the node is written to only where the
                # profile says so, by `readOnly: false`.
                mount = {**mount, "readOnly": True}
            _mount(container, mount, "container", f"profile {runtime.name!r}")


def lend(pod: Pod, engine: Mapping[str, Any], sidecar: Container) -> list[str]:
    """Mount the engine's data volumes in the sidecar, read-only; return what could not be and should be
    known."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    filled = _filled(pod)
    warnings = []
    lendable = [
        mount
        for mount in engine.get("volumeMounts") or []
        if not _under(mount["mountPath"], (*_DEVICES, *_SYSTEM))
        and _has_files(volumes.get(mount["name"]) or {}, filled)
    ]
    lent = {_normal(mount["mountPath"]) for mount in lendable}
    own = [path for mount in sidecar.get("volumeMounts") or [] if (path := _normal(mount["mountPath"])) not in lent]
    for mount in lendable:
        path = mount["mountPath"]
        if mount.get("subPathExpr"):
            warnings.append(
                f"container {engine['name']!r} mounts {path} with subPathExpr: Patio does not mount it in "
                f"{sidecar['name']!r}, which cannot check adapters there"
            )
            continue
        hidden = _hidden(own, _normal(path))
        if hidden is not None:
            warnings.append(
                f"container {engine['name']!r} mounts {path}, where {sidecar['name']!r} has {hidden}: Patio does "
                f"not mount it there, and the sidecar cannot check adapters below it. Mount it at another path"
            )
            continue
        _mount(sidecar, {**_plain(mount), "readOnly": True}, "sidecar", f"container {engine['name']!r}")
    return warnings


def _hidden(own: Iterable[str], path: str) -> str | None:
    """Say what of its own a sidecar would not find any more below a mount; None if nothing.

    A runtime has to make the folders at which other volumes are mounted below, which it cannot where this is read-only.
    """
    if any(_under(program, (path,)) or _under(path, (program,)) for program in _PROGRAMS):
        return "its program"
    return next((mounted for mounted in own if _under(mounted, (path,))), None)


def lend_socket(pod: Pod, engine: Mapping[str, Any], sidecar: Container, path: str) -> None:
    """Mount the volume with the engine's Unix socket in the sidecar; raise when it is in none that can be."""
    volumes = {volume["name"] for volume in pod["spec"].get("volumes") or []}
    over = [
        mount
        for mount in engine.get("volumeMounts") or []
        if mount["name"] in volumes
        and _under(path, (_normal(mount["mountPath"]),))
        and _normal(mount["mountPath"]) != "/"
    ]
    mount = max(over, key=lambda mount: len(_normal(mount["mountPath"])), default=None)
    own = mount is not None and _normal(mount["mountPath"]) not in (*_DEVICES, *_SYSTEM)
    if mount is None or not own or mount.get("subPathExpr") or _under(mount["mountPath"], ("/dev", "/proc", "/sys")):
        raise InjectionError(
            f"container {engine['name']!r} listens on the Unix socket {path} (--uds), which {sidecar['name']!r} cannot "
            f"see: mount an emptyDir in {engine['name']!r} at a separate path, such as /run/engine, and create the "
            "socket there"
        )
    _mount(sidecar, {**_plain(mount), "readOnly": True}, "sidecar", f"container {engine['name']!r}")


def _filled(pod: Pod) -> set[str]:
    """Return the volumes that an init container mounts, and perhaps fills, before the pod's others start."""
    return {
        mount["name"]
        for container in pod["spec"].get("initContainers") or []
        if container.get("restartPolicy") != "Always"
        for mount in container.get("volumeMounts") or []
    }


def _has_files(volume: Mapping[str, Any], filled: set[str]) -> bool:
    """Whether a volume may hold adapters when the engine starts."""
    driver = (volume.get("csi") or {}).get("driver")
    return (
        is_lasting(volume)
        or "image" in volume
        or (driver is not None and driver != _SECRETS_DRIVER)
        or ("emptyDir" in volume and volume["name"] in filled)
    )


def is_lasting(volume: Mapping[str, Any]) -> bool:
    """Whether a volume holds files that were there before the pod, and no devices."""
    host_path = volume.get("hostPath")
    if host_path is not None:
        return (host_path.get("type") or "") in _DIRECTORIES and not _under(host_path["path"], _DEVICES)
    return any(key in volume for key in _LASTING)


def _plain(mount: Mapping[str, Any]) -> dict[str, Any]:
    """Keep of a mount what is good for another container: not the way it propagates mounts."""
    return {key: value for key, value in mount.items() if key in ("name", "mountPath", "subPath")}


def _mount(container: Container, mount: Mapping[str, Any], what: str, wanted_by: str) -> None:
    path = _normal(mount["mountPath"])
    for device in container.get("volumeDevices") or []:
        if _normal(device["devicePath"]) == path or device["name"] == mount["name"]:
            raise InjectionError(
                f"{wanted_by} has volume {mount['name']!r} at {path}, but {what} {container['name']!r} has volume "
                f"{device['name']!r} as a block device at {device['devicePath']}: change one of them"
            )
    existing = next(
        (mount for mount in container.get("volumeMounts") or [] if _normal(mount["mountPath"]) == path), None
    )
    if existing is None:
        container["volumeMounts"] = [*(container.get("volumeMounts") or []), dict(mount)]
    elif (existing["name"], existing.get("subPath")) != (mount["name"], mount.get("subPath")):
        raise InjectionError(
            f"{wanted_by} has volume {mount['name']!r} at {path}, but {what} {container['name']!r} has volume "
            f"{existing['name']!r} there: both must have the same files at a path. Change one of them"
        )


def _under(path: str, roots: Iterable[str]) -> bool:
    path = _normal(path)
    return path == "/" or any(path == root or path.startswith(root + "/") for root in roots)


def _normal(path: str) -> str:
    return path.rstrip("/") or "/"

"""What the sources of adapters need of a pod's volumes: folders that the engine and the sidecar both see.

Called by `admission` after `volumes`, which has mounted them. The sidecar gets the folders below which pvc:// sources
may lie. If the engine could not read an adapter of this pod, the pod's creator gets a warning. Never changes a mount.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from patio_operator.injection.types import Container
from patio_operator.injection.volumes import is_lasting
from patio_protocol.adapters import LoadRequest
from patio_protocol.downloads import DEFAULT_DOWNLOAD_ROOT, DOWNLOAD_ROOT_VARIABLE, DOWNLOAD_ROOTS_VARIABLE
from patio_protocol.sources import SourceKind, parse_source

MOST_ROOTS = 8 * 1024
"""Characters of the variable with the roots; further folders are left out."""
_Mounts = list[tuple[tuple[str, ...], Mapping[str, Any]]]
_FETCHED = (SourceKind.HF, SourceKind.S3, SourceKind.OBS)


def tell_roots(
    pod: Mapping[str, Any], engine: Mapping[str, Any], sidecar: Container, adapters: Sequence[LoadRequest]
) -> list[str]:
    """Tell a sidecar where pvc:// sources may lie; return which of the adapters could not be read and why.

    Args:
        pod: the pod, with all its mounts.
        engine: its engine's container.
        sidecar: the sidecar's container; changed. A `PATIO_DOWNLOAD_ROOTS` that it has stays as it is.
        adapters: what the engine must have.

    """
    env = {variable["name"]: variable.get("value") for variable in sidecar.get("env") or []}
    if DOWNLOAD_ROOTS_VARIABLE in env:
        roots = [part.strip() for part in (env[DOWNLOAD_ROOTS_VARIABLE] or "").split(",") if part.strip()]
    elif roots := _common_folders(pod, engine, sidecar):
        # `$(` would be expanded by the kubelet; `$$(` is how it is written literally
        value = ",".join(roots).replace("$(", "$$(")
        sidecar["env"] = [*(sidecar.get("env") or []), {"name": DOWNLOAD_ROOTS_VARIABLE, "value": value}]
    return _warnings(adapters, engine, sidecar, roots, env.get(DOWNLOAD_ROOT_VARIABLE) or DEFAULT_DOWNLOAD_ROOT)


def _common_folders(pod: Mapping[str, Any], engine: Mapping[str, Any], sidecar: Mapping[str, Any]) -> list[str]:
    """Return the folders at which both mount the same volume of files, in the order of the engine's mounts."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
    mounts = [mount for mount in engine.get("volumeMounts") or [] if is_lasting(volumes.get(mount["name"]) or {})]
    folders = [str(PurePosixPath(mount["mountPath"])) for mount in mounts]
    engine_mounts, sidecar_mounts = _mounts(engine), _mounts(sidecar)
    room = MOST_ROOTS
    listed: list[str] = []
    for folder in folders:
        if (
            len(folder) < room
            and _can_be_listed(folder)
            and _place(engine_mounts, folder) == _place(sidecar_mounts, folder) is not None
        ):
            listed.append(folder)
            room -= len(folder) + 1
    return listed


def _can_be_listed(path: str) -> bool:
    """Whether the sidecar takes it as one of several roots, which stand in one variable with commas between them."""
    parts = PurePosixPath(path).parts
    plain = parts[:1] == ("/",) and len(parts) > 1 and ".." not in parts
    return plain and "," not in path and path == path.strip()


def _mounts(container: Mapping[str, Any]) -> _Mounts:
    """Return a container's mounts with the parts of their paths, taken apart once: each path is compared with each."""
    return [(PurePosixPath(mount["mountPath"]).parts, mount) for mount in container.get("volumeMounts") or []]


def _place(mounts: _Mounts, path: str) -> tuple[str, tuple[str, ...]] | None:
    """Return which folder of which volume is mounted at a path; None: none, or it is not known which."""
    wanted = PurePosixPath(path).parts
    over = [(len(parts), mount) for parts, mount in mounts if wanted[: len(parts)] == parts]
    if not over:
        return None
    length, nearest = max(over, key=lambda item: item[0])
    if nearest.get("subPathExpr"):
        return None
    return nearest["name"], PurePosixPath(nearest.get("subPath") or "").parts + wanted[length:]


def _warnings(
    adapters: Iterable[LoadRequest],
    engine: Mapping[str, Any],
    sidecar: Mapping[str, Any],
    roots: Sequence[str],
    download_root: str,
) -> list[str]:
    in_sidecar, in_engine = _place(_mounts(sidecar), download_root), _place(_mounts(engine), download_root)
    warnings: dict[str, None] = {}
    for adapter in adapters:
        if adapter.source is None:
            continue
        source = parse_source(adapter.source)
        if source.kind in _FETCHED and (in_sidecar is None or in_sidecar != in_engine):
            warnings[
                f"adapter {adapter.lora_name!r} is downloaded from {source.kind}:// to {download_root}, which "
                f"{engine['name']!r} and {sidecar['name']!r} do not share: mount one volume there in both containers, "
                f"or set another folder in {DOWNLOAD_ROOT_VARIABLE}"
            ] = None
        elif source.kind is SourceKind.PVC and not _below(source.path, roots, download_root):
            warnings[
                f"adapter {adapter.lora_name!r} comes from {source}, but {engine['name']!r} mounts no volume "
                f"{'at that path' if source.path.startswith('/') else 'that may have it'}: mount the claim in "
                f"the container"
            ] = None
    return list(warnings)


def _below(path: str, roots: Sequence[str], download_root: str) -> bool:
    if not path.startswith("/"):
        return bool(roots)
    return any(PurePosixPath(path).is_relative_to(root) for root in (*roots, download_root))

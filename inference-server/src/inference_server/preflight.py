"""Gathers what can be known of this machine before a start, and has `checks` judge it. Starts no engine.

`InferenceServer.check` calls `inspect`. A fact that cannot be had is left out, and is no problem.
"""

from __future__ import annotations

import os
import shutil
from typing import Any, Mapping, Sequence

from inference_server import checks, dealing, ports, profiling
from inference_server.checks import CheckItem
from inference_server.errors import Cause, ProfileError
from inference_server.gpu import find_reader

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - its size is read, nothing is written


def inspect(
    engine: str,
    model: str,
    port: int,
    holders: str,
    words: Sequence[str],
    environment: Mapping[str, str],
    output_dir: str,
    has_model: bool,
) -> tuple[CheckItem, ...]:
    """Return what is found about port, GPUs, model, disk and shared memory.

    Args:
        engine: name of the backend.
        holders: who listens on the port, for people.
        words: the engine's arguments.
        environment: the engine's.
        has_model: whether the engine loads `model`; a command of the caller's own may take it for a mere name.
    """
    items = [checks.about_port(port, ports.is_free(port), holders)]
    needed = dealing.gpus_needed(engine, words)
    if has_model:
        items.append(checks.about_gpus(needed, dealing.own_gpus(environment), gpus_in_use()))
        items += _about_model(model, environment)
        items += checks.about_shared_memory(_size_of(SHARED_MEMORY), needed)
    return (*items, *_about_disk(output_dir))


def gpus_in_use() -> dict[str, int]:
    """Return the MiB in use on each GPU, by the name that variables have for it; empty if none can be seen."""
    reader = find_reader()
    reading = reader() if reader is not None else None
    # AMD's cards have other names in their files than in the variable, which counts them.
    names = {device.index: device.index for device in reading.devices} if reading is not None else {}
    for number, name in enumerate(sorted(names)):
        names[name] = name if name.isdigit() else str(number)
    return {names[device.index]: device.used_mib for device in reading.devices} if reading is not None else {}


def profiler_items(profile: Any, output_dir: str, environment: Mapping[str, str]) -> list[CheckItem]:
    """Return what is found about the profiler of a configuration; nothing if it has none."""
    try:
        settings = profiling.settings_of(profile, output_dir)
    except ProfileError as error:
        return [CheckItem("profiler", checks.PROBLEM, str(error), "", Cause.PROFILER)]
    if settings is None:
        return []
    programs = profiling.programs(settings)
    path = environment.get("PATH", os.defpath)
    found = next((name for name in programs if shutil.which(name, path=path)), None)
    if programs and found is None:
        message = "none of %s is on PATH" % ", ".join(programs)
        hint = "install it, or set profile.binary_path"
        return [CheckItem("profiler", checks.PROBLEM, message, hint, Cause.PROFILER)]
    message = "%s runs around the command" % found if found else "%s is inside the engine" % settings.tool
    return [CheckItem("profiler", checks.FINE, message)]


def program_item(program: str, environment: Mapping[str, str]) -> CheckItem:
    """Return whether there is a program."""
    found = shutil.which(program, path=environment.get("PATH", os.defpath))
    if found is None:
        return CheckItem("program", checks.PROBLEM, "there is no program %s" % program, "", Cause.NOT_FOUND)
    return CheckItem("program", checks.FINE, found)


def hub_cache(environment: Mapping[str, str]) -> str:
    """Return the directory in which the hub's client keeps models, by the variables that it reads. Pure."""
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", ""), ".cache"), "huggingface"
    )
    return environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")


def is_path(model: str) -> bool:
    """Whether a model can only be a path: a name on the hub has one slash at most, and does not begin with it."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


def _about_model(model: str, environment: Mapping[str, str]) -> list[CheckItem]:
    if is_path(model) or os.path.exists(model):
        is_file = os.path.isfile(model)
        has_config = is_file or os.path.isfile(os.path.join(model, "config.json"))
        return [checks.about_path(model, os.path.exists(model), has_config)]
    cache = hub_cache(environment)
    snapshots = os.path.join(cache, "models--" + model.replace("/", "--"), "snapshots")
    cached = os.path.isdir(snapshots) and bool(os.listdir(snapshots))
    offline = environment.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")
    items = [checks.about_hub(model, cached, offline, cache)]
    return items if cached else items + _about_disk(cache)


def _about_disk(path: str) -> list[CheckItem]:
    """Return the space where a directory is, or will be."""
    existing = os.path.abspath(path)
    while not os.path.isdir(existing) and existing != os.path.dirname(existing):
        existing = os.path.dirname(existing)
    try:
        return [checks.about_disk(path, shutil.disk_usage(existing).free)]
    except OSError:
        return []


def _size_of(path: str) -> float:
    try:
        found = os.statvfs(path)
    except OSError:
        return float("inf")
    return float(found.f_frsize) * found.f_blocks

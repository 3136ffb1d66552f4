"""Gathers what can be known of this machine before a start, and has `checks` judge it. Starts no engine.

`InferenceServer.check` calls `inspect`. A fact that cannot be had is left out, and is no problem.
"""

from __future__ import annotations

import os
import shutil
from typing import Mapping, Sequence

from inference_server import checks, dealing, ports
from inference_server.checks import CheckItem
from inference_server.gpus import read_gpus

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
        machine = read_gpus()
        free_bytes = {gpu.index: gpu.free_bytes for gpu in machine.found}
        items.append(checks.about_gpus(needed, dealing.own_gpus(environment), free_bytes))
        items += _about_model(model, environment)
        items += checks.about_shared_memory(_size_of(SHARED_MEMORY), needed)
    return (*items, *_about_disk(output_dir))


def program_item(program: str, environment: Mapping[str, str]) -> CheckItem:
    """Return whether there is a program."""
    found = shutil.which(program, path=environment.get("PATH"))
    if found is None:
        return CheckItem("program", checks.PROBLEM, "there is no program %s" % program, "", checks.Cause.NOT_FOUND)
    return CheckItem("program", checks.FINE, found)


def hub_cache(environment: Mapping[str, str]) -> str:
    """Return the directory in which the hub's client keeps models, by the variables that it reads. Pure."""
    home = environment.get("HF_HOME") or os.path.join(
        environment.get("XDG_CACHE_HOME") or os.path.join(environment.get("HOME", ""), ".cache"), "huggingface"
    )
    return environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")


def is_path(model: str) -> bool:
    """Whether a model's name can only be a path: a name on the hub has one slash at most, and does not begin with it."""
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
    there = os.path.abspath(path)
    while not os.path.isdir(there) and there != os.path.dirname(there):
        there = os.path.dirname(there)
    try:
        return [checks.about_disk(path, shutil.disk_usage(there).free)]
    except OSError:
        return []


def _size_of(path: str) -> float:
    try:
        found = os.statvfs(path)
    except OSError:
        return float("inf")
    return float(found.f_frsize) * found.f_blocks

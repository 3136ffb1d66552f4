"""The sentences of an adapter's report that take some finding: why it is loaded, what it waits for, what may be wrong
with it. Pure, and a part of `planner`.
"""

from __future__ import annotations

from patio.adapters.desired import AdapterSpec, Slot
from patio.adapters.plan import Action, Reload, Unload
from patio.adapters.progress import Progress
from patio.adapters.snapshot import AdapterSnapshot, same_path
from patio.engine.base import EngineView

SLOW = 2.0
"""Seconds after which a report says that the engine has not answered yet, and why where that is known."""


def slow_at(snapshot: AdapterSnapshot) -> list[float]:
    """Return when a report of a running action will say more."""
    return [at + SLOW for at in snapshot.asked_at.values() if snapshot.now < at + SLOW]


def reason_to_load(
    snapshot: AdapterSnapshot, spec: AdapterSpec, path: str | None, progress: Progress, fits: bool
) -> str:
    """Return why an adapter is loaded. `path`: what the engine lists under the name."""
    if progress.rejection is not None:
        if fits:
            return "The engine evicted the adapter, and has a free slot again."
        if spec.name in snapshot.changed_files:
            return f"The files under {spec.path} changed since the engine rejected them."
        return f"Retrying after an error: {progress.rejection.message}"
    if path is not None and not same_path(path, spec.path):
        return f"The engine has {path} under this name, and {spec.path} is desired."
    if path is not None:
        return f"Revision {spec.revision} is desired, from the same path."
    if spec.served:
        return "The adapter was loaded on this pod before, and the engine no longer lists it."
    return "The adapter is desired, and the engine does not list it."


def progress_of_call(snapshot: AdapterSnapshot, name: str, action: Action) -> str:
    """Return why something is done, and once it takes long, what it waits for."""
    asked_at = snapshot.asked_at.get((name, Slot.ACTIVE))
    if asked_at is None or snapshot.now < asked_at + SLOW:
        return action.reason
    listed = snapshot.view.adapters or {}
    # SGLang 0.5.23 strikes a name off its list before it waits for its requests.
    unloading = [
        (at, key[0])
        for key, at in snapshot.asked_at.items()
        if isinstance(snapshot.running[key], Unload | Reload) and key[0] not in listed
    ]
    if not snapshot.unloads_wait or not unloading:
        return f"{action.reason} The engine has not answered yet."
    _, first = min(unloading)
    if first == name:
        return (
            f"{action.reason} The engine waits until the requests to {name} have ended, and makes no other change "
            "before."
        )
    return (
        f"{action.reason} The engine makes one change at a time. It unloads {first}, and waits until the requests to "
        f"{first} have ended."
    )


def base_model_doubt(snapshot: AdapterSnapshot, spec: AdapterSpec, serving: frozenset[str]) -> str:
    """Return what may be wrong with an adapter that the engine took; empty: nothing is known."""
    made_for = snapshot.base_models.get(spec.path, "")
    if not made_for or not serving or short_model_name(made_for) in serving:
        return ""
    return (
        f"The adapter's adapter_config.json names the base model {made_for}, but the engine serves "
        f"{', '.join(snapshot.view.base_models)}. An adapter of another model has no effect, or harms the answers."
    )


def short_model_names(view: EngineView) -> list[str]:
    """Return what the engine's base model is called: the last parts of its served names and of its path."""
    return [short_model_name(name) for name in (*view.base_models, *view.base_roots)]


def short_model_name(model: str) -> str:
    """Return the last part of a model's name or path, in small letters."""
    parts = model.rstrip("/").split("/")
    # The Hub's cache: models--ORGANISATION--NAME/snapshots/COMMIT.
    cached = [part.rpartition("--")[2] for part in parts if part.startswith("models--")]
    return (cached or parts)[-1].lower()
